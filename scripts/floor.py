"""Floating-point operations that motion guidance cannot avoid: SD 1.5 with AnimateDiff on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from motionclone_core.hosts.base import StopForward
from motionclone_core.hosts.diffusers_animatediff import DiffusersAnimateDiff
from motionclone_core.taps import DEFAULT_BLOCKS, select_taps

FRAMES, WORDS, WIDTH = 16, 77, 768


@dataclass(frozen=True)
class Floor:
    """Operations of a conditional pass, of the part of it up to the last tap, and of that part's way back."""

    size: int
    whole: int
    part: int
    back: int

    @property
    def ratio(self) -> float:
        """Of a guided step to an unguided one, which is two passes."""
        return (2 * self.whole + self.back) / (2 * self.whole)


def floors(sizes: Sequence[int]) -> list[Floor]:
    """For clips of 16 frames; sizes are sides in pixels. No weight is made, nothing is computed."""
    from diffusers import UNetMotionModel

    with torch.device("meta"):
        unet = UNetMotionModel(
            cross_attention_dim=WIDTH, num_attention_heads=8, motion_num_attention_heads=8, use_motion_mid_block=False
        )
    host = DiffusersAnimateDiff(unet.requires_grad_(False).eval())
    return [_floor(host, size) for size in sizes]


def _floor(host: DiffusersAnimateDiff, size: int) -> Floor:
    last = select_taps(host.sites, DEFAULT_BLOCKS)[-1]
    whole, _ = _operations(host, size, _Last(last, stop=False))
    observer = _Last(last, stop=True)
    part, x = _operations(host, size, observer)
    with FlopCounterMode(display=False) as back:
        torch.autograd.grad(observer.seen.sum(), x)
    return Floor(size, whole, part, back.get_total_flops())


def _operations(host: DiffusersAnimateDiff, size: int, observer: _Last) -> tuple[int, Tensor]:
    x = torch.empty(1, 4, FRAMES, size // 8, size // 8, device="meta", requires_grad=True)
    text = torch.empty(1, WORDS, WIDTH, device="meta")
    with FlopCounterMode(display=False) as forward, host.observing(observer), contextlib.suppress(StopForward):
        host.predict(x, 400, text)
    return forward.get_total_flops(), x


class _Last:
    """Keeps what it sees at one tap."""

    seen: Tensor

    def __init__(self, tap: str, *, stop: bool) -> None:
        self.taps, self._stop = (tap,), stop

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> Any:
        """See `hosts.base.AttentionObserver`."""
        self.seen = q.float() + k.float()
        if self._stop:
            raise StopForward
