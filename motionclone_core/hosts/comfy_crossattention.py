"""Cross-attention of a ComfyUI UNet to chosen tokens of a prompt.

Shapes used here:
    f   frames      p   positions      l   tokens      c   channels, all heads of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor, nn

from ..semantics import word_attention
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


@contextmanager
def attending(network: nn.Module, tokens: Sequence[int], attend: Callable[[Tensor], None]) -> Iterator[None]:
    """While the block runs, hand on cross-attention to some tokens, averaged over layers and heads.

    Of each layer's ``[heads, p, l]`` one frame is in memory at a time, and ``[f, p]`` is kept.

    Args:
        network: the UNet; called with one condition.
        tokens: places in the prompt; none hands on nothing.
        attend: told ``[f, p]`` when the last layer has been reached.
    """
    layers = word_layers(network) if tokens else []
    watch = _Watch(len(layers), tokens, attend)
    hooks: list[Any] = []
    try:
        for layer in layers:
            hooks.append(layer.to_q.register_forward_hook(watch.query))
            hooks.append(layer.to_k.register_forward_hook(watch.key_of(layer.heads)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watch:
    """Sums what the layers of one call attend to."""

    def __init__(self, layers: int, tokens: Sequence[int], attend: Callable[[Tensor], None]) -> None:
        self._layers, self._tokens, self._attend = layers, tokens, attend
        self._query: Tensor | None = None
        self._found: list[Tensor] = []

    def query(self, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        """A hook of the projection of queries ``[f, p, c]``."""
        self._query = output

    def key_of(self, heads: int) -> Callable[[nn.Module, tuple, Tensor], None]:
        """A hook of the projection of keys ``[f, l, c]``, which comes after that of queries."""

        def key(module: nn.Module, arguments: tuple, output: Tensor) -> None:
            query, self._query = self._query, None
            if query is None or len(self._found) == self._layers:
                return
            self._found.append(word_attention(query, output, heads, self._tokens))
            if len(self._found) == self._layers:
                self._attend(torch.stack(self._found).mean(dim=0))

        return key
