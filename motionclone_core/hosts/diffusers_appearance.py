"""The unguided video beside a guided clip in diffusers: same noise and text, without a gradient.

Shapes used here:
    c, f, h, w   channels, frames, height and width of the latent      x   a noisy latent, z sqrt(1 + sigma^2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..semantics import Appearance
from .base import CallObserver, Guide, UnsupportedModelError


def word_layers(unet: nn.Module) -> list[Any]:
    """The cross-attentions of ``up_blocks.1`` of a ``UNetMotionModel``, in the order of execution.

    Raises:
        UnsupportedModelError: there are none.
    """
    transformers = getattr(unet.up_blocks[1], "attentions", None) or ()
    layers = [block.attn2 for transformer in transformers for block in transformer.transformer_blocks]
    if not layers:
        raise UnsupportedModelError("this UNet has no cross-attention in up_blocks.1, so words have no place in frames")
    return layers


class UnguidedClip:
    """Sampled by DDIM at the run's own noise levels, as far as the guide asks for it.

    Args:
        guide: which steps are held against it, and what is read of it.
        x: where the run begins, ``[1, c, f, h, w]``.
        sigmas: of the run, with the last one's end.

    Raises:
        ValueError: there are several clips.
    """

    def __init__(self, guide: Guide, x: Tensor, sigmas: Sequence[float]) -> None:
        if len(x) != 1:
            raise ValueError(f"semantic guidance leads one clip at a time, got {len(x)}: sample them one by one")
        self._guide, self._x, self._sigmas = guide, x, sigmas
        self._total = len(sigmas) - 1
        self.shown: Appearance | None = None
        """What it shows at the step under way, if that is held against it."""

    def follow(self, step: int, predict: Callable[[Tensor, CallObserver | None], Tensor]) -> None:
        """Read it at a step, and take its step; the steps come in order.

        Args:
            step: counted from 0.
            predict: gives ``denoised`` at its x; the reader, if there is one, observes the conditional call.
        """
        self.shown = None
        if not any(self._guide.compares(later, self._total) for later in range(step, self._total)):
            return
        size = (self._x.shape[3], self._x.shape[4])
        reader = self._guide.reader(self._x.shape[2], size) if self._guide.compares(step, self._total) else None
        denoised = predict(self._x, reader)
        sigma, following = self._sigmas[step : step + 2]
        self._x = self._x + (self._x - denoised) / sigma * (following - sigma)
        self.shown = None if reader is None else reader.result()
