"""What S-CFG knows of diffusers models: one file per family, none of which imports diffusers."""

from .unet import JointLayer, Layer, Sink, TransformerBlock, find_blocks, find_layers

__all__ = ["JointLayer", "Layer", "Sink", "TransformerBlock", "find_blocks", "find_layers"]
