"""What hosts, observers and guides owe one another.

A *host* runs a model and, at each tap, hands the queries and keys to an *observer*. A *guide* says how
strongly each step is guided, gives the observer that takes the gradient, and corrects ``denoised``. A
host that samples knows a guide only by the protocol below, a guide knows nothing of any host.

Shapes used here:
    r   rows: batch entries of the call times the tap's positions, batch entries outermost
    f   frames      n   heads      d   channels per head      c, h, w   a latent's channels and size
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..grids import Crop, Size
from ..representation import Window
from ..semantics import Appearance

_FINGERPRINT_SAMPLES = 4096


class StopForward(Exception):
    """Raised by an observer that has what it came for: the host ends the model call."""


class UnsupportedModelError(ValueError):
    """The model is not one that a host can tap."""


@dataclass(frozen=True)
class VideoSize:
    """Frames, and height and width in latent cells, of the video that a run samples.

    A frame may be ``group`` of those that people see, but for the first; see `representation.Provenance.group`.
    """

    frames: int
    height: int
    width: int
    group: int = 1


@dataclass(frozen=True)
class ModelIdentity:
    """What a representation must agree on with a model.

    Attributes:
        architecture: model family and base, such as ``animatediff/SD1.5``.
        fingerprint: of the motion module's weights.
        heads: number of heads of each tap, by tap name, in the order of execution.
    """

    architecture: str
    fingerprint: str
    heads: Mapping[str, int]


def fingerprint(query_weights: Mapping[str, Tensor]) -> str:
    """A hash of samples of every tap's query weights, in float16 as motion modules are published."""
    digest = hashlib.sha256()
    for name, weight in query_weights.items():
        flat = weight.detach().flatten()
        step = max(1, flat.numel() // _FINGERPRINT_SAMPLES)
        digest.update(name.encode())
        digest.update(flat[::step].to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


class AttentionObserver(Protocol):
    """Watches the taps of one model call."""

    @property
    def taps(self) -> Sequence[str]:
        """The taps to be handed, in the order of execution."""
        ...

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Receive one tap's queries and keys, ``[r, f, n * d]``; may raise `StopForward`.

        A call whose attention sees several windows, one after the other, hands each tap on as often, in their order.
        """
        ...


class GradientObserver(AttentionObserver, Protocol):
    """Takes the gradient of an energy while the network runs, at the last tap."""

    def result(self) -> Gradient:
        """The gradient, once the model call is over.

        Raises:
            ValueError: the model call never reached a tap.
        """
        ...


@dataclass(frozen=True)
class Gradient:
    """The energy of each batch entry of a model call, and its gradient by the call's input.

    Attributes:
        value: same shape as the input x, ``[b * f, c, h, w]``, float32.
        energies: one per batch entry.
    """

    value: Tensor
    energies: tuple[float, ...]

    @property
    def finite(self) -> bool:
        """Whether every value is a number."""
        return bool(self.value.isfinite().all())


@dataclass(frozen=True)
class View:
    """What one call of the model sees of the video that is sampled, and when.

    Attributes:
        windows: the frames that attention sees at once: all f of the call, or those of each of its views.
        crops: what each of the b batch entries sees of the latent.
        size: height and width of that latent.
        step: of the run, counted from 0.
        total_steps: of the run.
        timestep: what the network is told of the noise, 0 to 999.
        appearance: what an unguided video shows at this step, if the guide asks for one.
    """

    windows: Sequence[Window]
    crops: Sequence[Crop]
    size: Size
    step: int = 0
    total_steps: int = 1
    timestep: float = 0.0
    appearance: Appearance | None = None


class CallObserver(AttentionObserver, Protocol):
    """Reads an unguided video's call of the model, without a gradient."""

    @property
    def tokens(self) -> Sequence[int]:
        """Tokens of the prompt whose cross-attention it wants; none if it needs none."""
        ...

    def attend(self, attention: Tensor) -> None:
        """Receive cross-attention to these tokens, averaged over them, layers and heads, ``[f, p]``."""
        ...

    def result(self) -> Appearance:
        """What was read.

        Raises:
            ValueError: the call left something out.
        """
        ...


class Guide(Protocol):
    """Guidance as a sampling host sees it."""

    @property
    def taps(self) -> Sequence[str]:
        """The taps that the energy reads, in the order of execution."""
        ...

    def require(self, model: ModelIdentity, video: VideoSize) -> None:
        """Check that model and video fit, before anything is sampled.

        Raises:
            RepresentationMismatchError: they do not; the message says both sides.
        """
        ...

    def guides(self, step: int, total_steps: int, *, sigma_next: float) -> bool:
        """Whether a step, which ends at ``sigma_next``, is guided; a host leaves the others alone."""
        ...

    @property
    def reuse(self) -> int:
        """How many steps in a row share one gradient; 1 takes one at every step."""
        ...

    def compares(self, step: int, total_steps: int) -> bool:
        """Whether a step is held against an unguided video of the same noise and prompt.

        A host that samples one beside the guided video says in the step's `View` what it shows.
        """
        ...

    def reader(self, frames: int, size: Size) -> CallObserver:
        """The observer of the unguided video's conditional call at such a step.

        Args:
            frames: of the video.
            size: height and width of its latent.
        """
        ...

    def observer(self, x: Tensor, view: View, *, scale: float) -> GradientObserver:
        """An observer for one model call.

        Args:
            x: the call's input, a leaf that requires grad, ``[b * f, c, h, w]``.
            view: what it sees.
            scale: the energy is multiplied by it on the way back, and the gradient divided by it.

        Raises:
            RepresentationMismatchError: the representation has no such window.
        """
        ...

    def correct(
        self,
        denoised: Tensor,
        gradient: Tensor,
        *,
        step: int,
        total_steps: int,
        sigma: float,
        sigma_next: float,
        sigma_from: float | None = None,
    ) -> Tensor:
        """``denoised`` of one clip with the guidance in it; same shape.

        Args:
            denoised: predicted at ``sigma``.
            gradient: of the energy by x.
            step: of the run, counted from 0.
            total_steps: of the run.
            sigma: where the model was evaluated.
            sigma_next: where the step ends.
            sigma_from: where it starts, if that is not ``sigma``.
        """
        ...
