"""The joint transformer as diffusers' class: the same network, for pipelines and for S-CFG's diffusers host."""

from __future__ import annotations

from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

from .mmdit import HEAD
from .model import CELLS, TransformerModel


def as_diffusers(model: TransformerModel) -> SD3Transformer2DModel:
    """A diffusers model that gives what `model.transformer` gives, in eval mode.

    Call it with `timestep` = 1000 σ and `pooled_projections` = zeros (B, 64). diffusers' own converter for Stable
    Diffusion 3 renames the weights. Raises `ValueError` for another architecture.
    """
    if model.config["architecture"] != "mmdit":
        raise ValueError(
            f"expected a model of architecture 'mmdit', got {model.config['architecture']!r}: "
            "diffusers has no class for it"
        )
    sizes = model.config["transformer"]
    network = SD3Transformer2DModel(
        sample_size=CELLS,
        patch_size=sizes["patch"],
        in_channels=sizes["channels"],
        out_channels=sizes["channels"],
        num_layers=sizes["depth"],
        num_attention_heads=sizes["depth"],
        attention_head_dim=HEAD,
        joint_attention_dim=sizes["context"],
        caption_projection_dim=HEAD * sizes["depth"],
        pooled_projection_dim=sizes["pooled"],
        pos_embed_max_size=sizes["grid"],
        qk_norm="rms_norm",
    )
    state = {name: value.detach().clone() for name, value in model.transformer.state_dict().items()}
    network.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(state))
    return network.eval().requires_grad_(False)
