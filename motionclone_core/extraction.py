"""Reading a motion representation off a reference in one denoising step (paper, §3.3 and §4.1).

Shapes used here:
    p   positions      f   frames      n   heads      d   channels per head
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .attention import strongest, temporal_attention
from .grids import Cells, RepresentationMismatchError, halvings
from .hosts.base import StopForward
from .representation import MotionRepresentation, Provenance, TapRepresentation, Window

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
    """Puts a representation together from one observed model call for each window.

    Args:
        taps: to read, in the order of execution.
        k: entries to keep per row.
        frames: of the reference.
        latent_size: height and width of its latents.
    """

    def __init__(self, taps: Sequence[str], *, k: int, frames: int, latent_size: tuple[int, int]) -> None:
        self._taps, self._k, self._frames, self._latent_size = tuple(taps), k, frames, latent_size
        self._readers: dict[Window, WindowReader] = {}

    def observer(self, window: Window | None = None) -> WindowReader:
        """The observer of the call that sees these frames; of the call that sees all if it is left out."""
        window = tuple(range(self._frames)) if window is None else window
        reader = WindowReader(self._taps, k=self._k, window=window, latent_size=self._latent_size)
        # A host that calls the model again learns nothing new.
        return self._readers.setdefault(window, reader)

    def representation(self, provenance: Provenance) -> MotionRepresentation:
        """The finished representation.

        Raises:
            ValueError: a model call left taps out, or there was none.
        """
        if not self._readers:
            raise ValueError("the model was never called: nothing was read")
        windows = {window: reader.result() for window, reader in self._readers.items()}
        return MotionRepresentation(windows, self._latent_size, provenance)


class WindowReader:
    """The observer that keeps the strongest entries of each tap and stops the model after the last.

    Expects one batch entry: the conditional pass alone.
    """

    def __init__(self, taps: Sequence[str], *, k: int, window: Window, latent_size: tuple[int, int]) -> None:
        if k > len(window):
            raise ValueError(f"k is {k}, but the model sees {len(window)} frames at once: choose k up to {len(window)}")
        self._taps = tuple(taps)
        self._k = k
        self._window = window
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
            raise StopForward
        if q.shape[1] != len(self._window):
            raise RepresentationMismatchError(
                f"{tap} attends over {q.shape[1]} frames, the model was given {len(self._window)} at once: extract "
                f"without views"
            )
        values, indices = strongest(temporal_attention(q, k, heads), self._k)
        if not values.isfinite().all():
            raise ValueError(
                f"the attention of {tap} holds values that are not numbers: the model overflows in its "
                f"precision, run it in a wider one (--force-fp32 in ComfyUI)"
            )
        cells = Cells(self._latent_size, halvings(self._latent_size, q.shape[0]))
        self._kept[tap] = TapRepresentation.compact(values, indices, cells.grid)
        if len(self._kept) == len(self._taps):
            raise StopForward

    def result(self) -> dict[str, TapRepresentation]:
        """What was kept, by tap name.

        Raises:
            ValueError: the model call left taps out.
        """
        missing = [tap for tap in self._taps if tap not in self._kept]
        if missing:
            raise ValueError(
                f"the model never reached {', '.join(missing)}: a motion module's effect of 0, or another "
                f"patch, leaves it out"
            )
        return self._kept
