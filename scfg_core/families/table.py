"""The families: what is known of each, whichever host runs it."""

from .family import Family

SD3_BANDS = {24: (0.2, 0.45), 38: (0.42, 0.66)}
"""Depth → where the layers with text are in SD 3.5-M and SD 3.5-L."""

KLEIN_WIDTHS = (7680, 12288)
"""Width of the text of Klein 4B and 9B: three layers of Qwen 3."""


def sd3(depth: int) -> Family:
    """SD 3 and SD 3.5 of so many blocks: CLIP tokens, then T5's; a word of both has two columns. Column 0 is CLIP's
    START. SD 3.5-M attends a second time in its first blocks, to the patches alone; that call is not observed.
    """
    return Family("SD 3", starts=1, band=SD3_BANDS.get(depth, Family.band))


QWEN_IMAGE = Family("Qwen-Image", suffix=5, masks=True)
"""The text's padding is masked; the prompt's template leaves five columns behind the prompt. Columns of reference
images (Qwen-Image-Edit) follow the image's."""

FLUX_1 = Family("Flux.1", band=(0.2, 0.33))
"""Flux.1 and LongCat: double blocks, then single ones. Columns of reference images follow the image's."""

CHROMA = Family("Chroma", band=(0.2, 0.33))
"""As Flux.1, with T5 alone."""


def flux_2(text_width: int) -> Family:
    """Flux.2, and Klein, which is known by the width of its text.

    Klein's prompts have three template columns before the prompt, nine behind it, and padding up to 512 that the
    model attends to. Flux.2-dev is padded by zeros on the left.
    """
    if text_width in KLEIN_WIDTHS:
        return Family("Flux.2 Klein", patch=1, starts=3, suffix=9)
    return Family("Flux.2", patch=1)


LUMINA_2 = Family("Lumina 2", starts=1)
"""Lumina 2 and NetaYume: Gemma's BOS serves as START, then the system prompt and the prompt."""

Z_IMAGE = Family("Z-Image", starts=3, suffix=5, multiple=32)
"""Text and image are padded to multiples of 32. The three columns of its template, which no prompt changes, serve
as START; five stand behind the prompt."""

HIDREAM = Family("HiDream")
"""Three texts: T5's, the last layer of Llama, and the layer of Llama of this block. One word has three columns."""

AURA_FLOW = Family("AuraFlow")
"""Eight registers, the prompt, zeros up to 256, then the image."""

HUNYUAN_IMAGE = Family("HunyuanImage", patch=1, suffix=1, masks=True)
"""Text, then the glyphs of ByT5 where the prompt quotes some, then the image; the glyphs own nothing."""

KANDINSKY_5 = Family("Kandinsky 5", suffix=1)
"""Self-attention, then attention to the prompt, whose template leaves one column behind it."""

COSMOS = Family("Cosmos-Predict2")
"""Self-attention, then attention to T5's tokens."""

ANIMA = Family("Anima")
"""As Cosmos. Its keys are the T5 ids of the prompt, adapted; `</s>` ends them, and zeros fill up to 512: they take
their share of the attention, and own nothing."""
