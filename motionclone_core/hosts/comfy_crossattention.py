"""Where words of a prompt are seen in ComfyUI's UNets."""

from __future__ import annotations

from typing import Any

from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import nn

from .base import UnsupportedModelError

# Where `up_blocks.1` lies in ComfyUI's UNets of SD 1.5 and SDXL: three layers for each size of the grid.
_UP_BLOCK_1 = slice(3, 6)


def word_layers(network: nn.Module) -> list[Any]:
    """The cross-attentions of ``up_blocks.1``, in the order of execution.

    Raises:
        UnsupportedModelError: there are none.
    """
    blocks = list(getattr(network, "output_blocks", ()))[_UP_BLOCK_1]
    transformers = (layer for block in blocks for layer in block.modules() if isinstance(layer, BasicTransformerBlock))
    layers = [layer.attn2 for layer in transformers if layer.attn2 is not None]
    if not layers:
        raise UnsupportedModelError(
            "this model has no cross-attention in up_blocks.1, so words have no place in its frames: use a model of "
            "Stable Diffusion 1.5 or XL, or masks in place of words"
        )
    return layers
