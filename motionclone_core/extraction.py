"""Reading a motion representation off a reference in one denoising step (paper, §3.3 and §4.1).

Shapes used here:
    p   positions      f   frames      n   heads      d   channels per head
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .attention import strongest, temporal_attention
from .hosts.base import StopForward
from .representation import (
    MotionRepresentation,
    Provenance,
    RepresentationMismatchError,
    TapRepresentation,
    halved,
    halvings,
)

DEFAULT_T_ALPHA = 400


def require_extraction(*, t_alpha: int, k: int, frames: int) -> None:
    """Check the settings of an extraction before the model runs.

    Args:
        t_alpha: timestep of the denoising step.
        k: entries to keep per row.
        frames: of the reference.

    Raises:
        ValueError: one is out of range; the message says both numbers.
    """
    if not 0 <= t_alpha <= 999:
        raise ValueError(f"t_alpha is {t_alpha}: it must lie in 0 to 999")
    if frames < 2:
        raise ValueError(f"the reference has {frames} frame: motion needs at least 2")
    if not 1 <= k <= frames:
        raise ValueError(f"k is {k}, but the reference has {frames} frames: choose k from 1 to {frames}")


class RepresentationBuilder:
    """The observer that keeps the strongest entries of each tap and stops the model after the last.

    Expects one batch entry: the conditional pass alone.
    """

    def __init__(self, taps: Sequence[str], *, k: int, frames: int, latent_size: tuple[int, int]) -> None:
        self._taps = tuple(taps)
        self._k = k
        self._frames = frames
        self._latent_size = latent_size
        self._kept: dict[str, TapRepresentation] = {}

    @property
    def taps(self) -> tuple[str, ...]:
        return self._taps

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Keep the strongest entries of ``q, k``, ``[p, f, n * d]``.

        Raises:
            StopForward: this was the last tap.
            RepresentationMismatchError: frames or positions are not those of the reference.
            ValueError: the model gave NaN.
        """
        if len(self._kept) == len(self._taps):
            raise StopForward  # a host that calls the model again learns nothing new
        if q.shape[1] != self._frames:
            raise RepresentationMismatchError(
                f"{tap} attends over {q.shape[1]} frames, the reference has {self._frames}: extract without "
                f"sliding context windows or views"
            )
        values, indices = strongest(temporal_attention(q, k, heads), self._k)
        if not values.isfinite().all():
            raise ValueError(
                f"the attention of {tap} holds values that are not numbers: the model overflows in its "
                f"precision, run it in a wider one (--force-fp32 in ComfyUI)"
            )
        times = halvings(self._latent_size, q.shape[0])
        grid = (halved(self._latent_size[0], times), halved(self._latent_size[1], times))
        self._kept[tap] = TapRepresentation.compact(values, indices, grid)
        if len(self._kept) == len(self._taps):
            raise StopForward

    def representation(self, provenance: Provenance) -> MotionRepresentation:
        """The finished representation.

        Raises:
            ValueError: the model call left taps out.
        """
        missing = [tap for tap in self._taps if tap not in self._kept]
        if missing:
            raise ValueError(
                f"the model never reached {', '.join(missing)}: a motion module's effect of 0, or another "
                f"patch, leaves it out"
            )
        return MotionRepresentation(self._kept, self._latent_size, provenance)
