"""A small text-to-image diffusion model that runs anywhere, and the picture book that it draws.

    from demo.model import load_model                 # .unet, .text_encoder, .tokenizer, .scheduler_config
    from demo.sample import sample, starting_noise    # images by CFG or S-CFG, with the record of the run
    from demo.wavelet import encode, decode           # images (B, 3, 64, 64), −1…1 ↔ latents (B, 12, 32, 32)
    from demo.world import Scenes, layout, held_out_scenes, training_scenes, captions, spell
    from demo.drawing import draw, to_float, patch_owners
    from demo.joint.model import load_transformer     # transformers of the same world, trained on the spot
    from demo.words import WORDS, NOUNS, COLOURS, GROUNDS, SKIES

Only `words`, `text`, `wavelet` and `comfyui` are used inside ComfyUI; the rest needs diffusers.
"""
