"""Cross-attention of an image model to chosen tokens of a prompt, read while the model runs.

Shapes used here:
    f   frames      p   positions      l   tokens      c   channels, all heads of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..semantics import word_attention


@contextmanager
def attending(layers: Sequence[Any], tokens: Sequence[int], attend: Callable[[Tensor], None]) -> Iterator[None]:
    """While the block runs, hand on cross-attention to some tokens, averaged over layers and heads.

    Of each layer's ``[heads, p, l]`` one frame is in memory at a time, and ``[f, p]`` is kept.

    Args:
        layers: cross-attentions with ``to_q``, ``to_k`` and ``heads``, in the order of execution; they see one
            condition.
        tokens: places in the prompt; none hands on nothing.
        attend: told ``[f, p]`` when the last layer has been reached.
    """
    layers = layers if tokens else ()
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
