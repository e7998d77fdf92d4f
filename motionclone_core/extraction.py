"""Reading a motion representation off a reference in one denoising step (paper, §3.3 and §4.1).

Shapes used here:
    p   positions      f   frames      n   heads      d   channels per head
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from .appearance import word_map
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
        self._foreground: Tensor | None = None

    def attend(self, attention: Tensor) -> None:
        """Keep where words of the reference lie: cross-attention to them, averaged over layers and heads, ``[f, p]``.

        Raises:
            ValueError: it holds what is no number.
        """
        self._foreground = word_map(attention, self._latent_size)

    def observer(self, *windows: Window) -> CallReader:
        """The observer of a call whose attention sees these frames at once: its own, all if they are left out, or
        those of each of its views."""
        made = [self._reader(window) for window in windows or (tuple(range(self._frames)),)]
        return CallReader(self._taps, made)

    def _reader(self, window: Window) -> WindowReader:
        reader = WindowReader(self._taps, k=self._k, window=window, latent_size=self._latent_size)
        # A host that shows a window again shows nothing new.
        return self._readers.setdefault(window, reader)

    def representation(self, provenance: Provenance, *, words: bool = False) -> MotionRepresentation:
        """The finished representation.

        Args:
            provenance: where it comes from.
            words: words were to be read with it.

        Raises:
            ValueError: a model call left taps out, or the words, or there was none.
        """
        if not self._readers:
            raise ValueError(
                "the model was never called, so nothing was read: the conditioning has to count at t_alpha, so take a "
                "timestep range off it"
            )
        windows = {window: reader.result() for window, reader in self._readers.items()}
        if words and self._foreground is None:
            raise ValueError(
                "the words lie where up_blocks.1 sees them, and no block as late as that is read: add up_blocks.1 to "
                "the blocks"
            )
        return MotionRepresentation(windows, self._latent_size, provenance, foreground=self._foreground)


class CallReader:
    """The observer of one model call: hands each tap's windows to their readers, and stops the model after the last.

    Expects one batch entry: the conditional pass alone.
    """

    def __init__(self, taps: Sequence[str], readers: Sequence[WindowReader]) -> None:
        self._taps, self._readers = tuple(taps), tuple(readers)
        self._reached = Counter[str]()

    @property
    def taps(self) -> tuple[str, ...]:
        return self._taps

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Keep the strongest entries of ``q, k``, ``[p, f, n * d]``.

        Raises:
            StopForward: all is read.
            RepresentationMismatchError: frames or positions are not those of the reference.
            ValueError: the model gave NaN.
        """
        if not self._is_read:
            self._readers[self._reached[tap] % len(self._readers)].read(tap, q, k, heads)
            self._reached[tap] += 1
        if self._is_read:
            raise StopForward

    @property
    def _is_read(self) -> bool:
        return all(reader.complete for reader in self._readers)


class WindowReader:
    """Keeps the strongest entries of each tap in one window."""

    def __init__(self, taps: Sequence[str], *, k: int, window: Window, latent_size: tuple[int, int]) -> None:
        if k > len(window):
            raise ValueError(f"k is {k}, but the model sees {len(window)} frames at once: choose k up to {len(window)}")
        self._taps = tuple(taps)
        self._k = k
        self._window = window
        self._latent_size = latent_size
        self._kept: dict[str, TapRepresentation] = {}

    @property
    def complete(self) -> bool:
        """Whether every tap is kept."""
        return len(self._kept) == len(self._taps)

    def read(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """See `CallReader.observe`."""
        if tap in self._kept:
            return
        if q.shape[1] != len(self._window):
            raise RepresentationMismatchError(
                f"{tap} attends over {q.shape[1]} frames, not over {len(self._window)}, as it should: take patches of "
                f"the temporal attention away"
            )
        values, indices = strongest(temporal_attention(q, k, heads), self._k)
        if not values.isfinite().all():
            raise ValueError(
                f"the attention of {tap} holds values that are not numbers: the model overflows in its "
                f"precision, run it in a wider one (--force-fp32 in ComfyUI)"
            )
        cells = Cells(self._latent_size, halvings(self._latent_size, q.shape[0]))
        self._kept[tap] = TapRepresentation.compact(values, indices, cells.grid)

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
