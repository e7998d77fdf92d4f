"""When to guide and how strongly: uneven timesteps, guided window, ramps, published presets (pure).

Symbols: N steps, G of them guided, i the step counted from 0 (paper, §3.4 and §4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TRAIN_TIMESTEPS = 1000
# AnimateDiff's noise schedule: betas rise linearly from the first to the second (diffusers calls it linear).
BETA_RANGE = (0.00085, 0.012)
UpdateRule = Literal["published", "paper", "normalised"]
UPDATE_RULES: tuple[UpdateRule, ...] = ("published", "paper", "normalised")
DEFAULT_WEIGHT = 2000.0  # lambda, of all published configurations of the released version


def alphas_cumprod() -> NDArray[np.float64]:
    """abar_t of AnimateDiff's noise schedule at the timesteps 0 to 999, where z_t = sqrt(abar_t) z_0 + ..."""
    return np.cumprod(1.0 - np.linspace(*BETA_RANGE, TRAIN_TIMESTEPS))


def sigma_at(timestep: int) -> float:
    """The noise level of a timestep, 0 to 999, in sigma: x = z_0 + sigma * noise."""
    abar = float(alphas_cumprod()[timestep])
    return ((1.0 - abar) / abar) ** 0.5


def uneven_timesteps(
    steps: int, guided_steps: int, ratio: float | None, *, timesteps: int = TRAIN_TIMESTEPS
) -> list[int]:
    """Timesteps that crowd the guided steps into the noisiest part of the schedule.

    ``G`` points from 999 down to ``int((1 - ratio) * 1000)``, then ``N - G`` points from just below
    that down to 0, both evenly spaced and rounded (authors' published code). Two cases that it leaves
    undefined start at 999 like any run: no guided step spreads all N over the whole schedule, and the
    first part lies at 999 if it is a single step.

    Args:
        steps: N, at least 1.
        guided_steps: G, 0 to N.
        ratio: the part of the noise schedule that the guided steps share, between 0 and 1; None spreads all steps
            evenly, as the first version does.
        timesteps: how many of the schedule's 1000 there are to lay the steps over, from 0 on: fewer for a
            run that does not start at pure noise.

    Returns:
        N timesteps, descending.

    Raises:
        ValueError: a value is out of range, or a part has fewer timesteps than the steps asked of it.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 is needed")
    if not 0 <= guided_steps <= steps:
        raise ValueError(f"guided steps are {guided_steps} of {steps} steps: choose from 0 to {steps}")
    if ratio is not None and not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio is {ratio}: it must lie between 0 and 1, such as 0.3")
    if guided_steps == 0 or ratio is None:
        _check_room("even" if guided_steps else "unguided", steps, timesteps)
        return _from_the_top(0, timesteps - 1, steps)
    boundary = int((1 - ratio) * timesteps)
    _check_room("guided", guided_steps, timesteps - boundary)
    _check_room("unguided", steps - guided_steps, boundary)
    guided = _from_the_top(boundary, timesteps - 1, guided_steps)
    return guided + _descending(0, boundary - 1, steps - guided_steps)


def _check_room(name: str, steps: int, timesteps: int) -> None:
    if steps > timesteps:
        raise ValueError(
            f"{steps} {name} steps do not fit: the ratio (and denoise, below 1) leaves {timesteps} timesteps "
            f"for them; ask for fewer steps or change the ratio"
        )


def _from_the_top(low: int, high: int, count: int) -> list[int]:
    # NumPy puts a single point at the low end.
    return [high] if count == 1 else _descending(low, high, count)


def _descending(low: int, high: int, count: int) -> list[int]:
    return [round(float(t)) for t in np.linspace(low, high, count)][::-1]


class Ramp(Protocol):
    """How strongly each step of a run is guided, beside a weight."""

    def ramp(self, step: int, total_steps: int) -> float:
        """Of step ``step``, counted from 0, in a run of ``total_steps``; 0 leaves it alone."""
        ...


@dataclass(frozen=True)
class GuidanceWindow:
    """Which steps of a run are guided, and the ramp w_i over them.

    Attributes:
        start_step: the first guided step.
        guided_steps: G, how many are guided.
        warm_up: steps over which the strength rises from 1 / warm_up to 1.
        cool_down: steps over which it falls to 1 / cool_down at the end.
    """

    start_step: int = 0
    guided_steps: int = 50
    warm_up: int = 10
    cool_down: int = 10

    def __post_init__(self) -> None:
        for name in ("start_step", "guided_steps", "warm_up", "cool_down"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it cannot be negative")

    def ramp(self, step: int, total_steps: int) -> float:
        """w_i of step ``step`` in a run of ``total_steps``; 0 outside the window.

        A window that reaches past the end of the run ends there. The warm-up is ``(i + 1) / warm`` for
        i < warm, the cool-down ``(G - i) / cool`` for i > G - cool. Where a short window makes the two
        overlap they multiply, as they do in the authors' published code.
        """
        guided = min(self.guided_steps, total_steps - self.start_step)
        i = step - self.start_step
        if not 0 <= i < guided:
            return 0.0
        rise = (i + 1) / self.warm_up if i < self.warm_up else 1.0
        fall = (guided - i) / self.cool_down if i > guided - self.cool_down else 1.0
        return rise * fall


Interpolation = Literal["linear", "ease", "hold"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("linear", "ease", "hold")


@dataclass(frozen=True)
class Keyframe:
    """A point of a `StrengthCurve`.

    Attributes:
        at: where in the run, 0 (its first step) to 1 (its last).
        strength: how strong guidance is there; 1 is what the weight says, 0 is off.
        interpolation: how the strength goes on to the next point: in a straight line, easing in and out of it
            (a smoothstep, 3 u^2 - 2 u^3), or staying until it is there.
    """

    at: float
    strength: float
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if not 0.0 <= self.at <= 1.0:
            raise ValueError(f"a keyframe at {self.at}: it must lie between 0 (the first step) and 1 (the last)")
        if not math.isfinite(self.strength) or self.strength < 0:
            raise ValueError(f"a keyframe's strength is {self.strength}: it must be a number of at least 0")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation {self.interpolation!r} is unknown: choose one of {', '.join(INTERPOLATIONS)}"
            )


@dataclass(frozen=True)
class StrengthCurve:
    """The strength over a whole run, drawn through keyframes; before the first and after the last it stays as it is.

    Attributes:
        keyframes: in rising order.

    Raises:
        ValueError: there are none, or two stand in one place.
    """

    keyframes: tuple[Keyframe, ...]

    def __post_init__(self) -> None:
        if not self.keyframes:
            raise ValueError("a strength curve without keyframes: at least 1 is needed")
        places = [keyframe.at for keyframe in self.keyframes]
        for at, following in pairwise(places):
            if at >= following:
                raise ValueError(f"keyframes at {at} and {following}: each must lie after the one before it")

    @property
    def empty(self) -> bool:
        """Whether it is 0 everywhere."""
        return all(keyframe.strength == 0 for keyframe in self.keyframes)

    def with_keyframe(self, keyframe: Keyframe) -> StrengthCurve:
        """The same with one more, wherever it lies; in place of one at the same place."""
        others = (other for other in self.keyframes if other.at != keyframe.at)
        return StrengthCurve(tuple(sorted((*others, keyframe), key=lambda k: k.at)))

    def ramp(self, step: int, total_steps: int) -> float:
        """See `Ramp`."""
        at = step / (total_steps - 1) if total_steps > 1 else 0.0
        before = [keyframe for keyframe in self.keyframes if keyframe.at <= at]
        after = [keyframe for keyframe in self.keyframes if keyframe.at > at]
        if not before or not after:
            return (before[-1] if before else after[0]).strength
        start, end = before[-1], after[0]
        way = (at - start.at) / (end.at - start.at)
        eased = {"linear": way, "ease": way * way * (3 - 2 * way), "hold": 0.0}[start.interpolation]
        return start.strength + (end.strength - start.strength) * eased


def equal_push(weight: float, of: GuidanceWindow, window: GuidanceWindow) -> float:
    """The weight with which fewer guided steps push as far in all as the steps of another window.

    Under the rules ``normalised`` and ``published`` a guided step moves the latent by a distance that does not
    depend on the length of the step, so the way that guidance pushes in all is proportional to
    ``weight * sum w_i``: halving the number of guided steps halves it. This weight makes up for that (this
    project). The paper's rule needs no such weight: its push grows with the length of the step.

    Args:
        weight: lambda under ``of``.
        of: the window that the weight is known for.
        window: the window that a weight is wanted for, shorter or longer.

    Raises:
        ValueError: the window guides no step.
    """
    known, wanted = (
        sum(w.ramp(w.start_step + i, w.start_step + w.guided_steps) for i in range(w.guided_steps))
        for w in (of, window)
    )
    if not wanted:
        raise ValueError("a window without guided steps has no weight")
    return weight * known / wanted


@dataclass(frozen=True)
class Preset:
    """A setting of a run: published ones (authors' configuration files), and ``fast`` of this project.

    ``cfg`` is ComfyUI's: the paper's classifier-free guidance s = 7.5 is 8.5 here. ``limit`` and ``update_rule`` are
    those of `updates.corrected_denoised`. ``k`` is how many entries per row the motion is read with; guidance takes
    any. A ``ratio`` of None spreads all steps evenly. ``block_weights`` are pairs of a block and what ``weight`` is
    multiplied by there.
    """

    steps: int
    guided_steps: int
    ratio: float | None
    weight: float = DEFAULT_WEIGHT
    warm_up: int = 10
    cool_down: int = 10
    cfg: float = 8.5
    limit: float | None = None
    update_rule: UpdateRule = "published"
    k: int = 1
    block_weights: tuple[tuple[str, float], ...] = ()

    @property
    def window(self) -> GuidanceWindow:
        """The guided steps and their ramps."""
        return GuidanceWindow(0, self.guided_steps, self.warm_up, self.cool_down)


def beside_a_seam(sigmas: Sequence[float], step: int) -> bool:
    """Whether a step is far shorter than the next, as the last guided one of `uneven_timesteps` is, or follows such.

    All rules but the paper's move the latent as far in a short step as in a long one, for which ``denoised`` has to be
    moved very far. Euler's method and DDIM do just that. Multistep methods extrapolate the change from one
    ``denoised`` to the next over the long step that follows: on the embedded model, DPM++ 2M leaves the range of the
    data. Hosts guide such a step, and the first one after it, under Euler and DDIM only (this project).

    Args:
        sigmas: of all steps, falling, with the last one's end.
        step: counted from 0.
    """
    return _before_a_seam(sigmas, step) or (step > 0 and _before_a_seam(sigmas, step - 1))


def _before_a_seam(sigmas: Sequence[float], step: int) -> bool:
    if step + 2 >= len(sigmas) or not sigmas[step + 2] > 0:
        return False
    length, following = (math.log(sigmas[i] / sigmas[i + 1]) for i in (step, step + 1))
    return length < following / 4


PRESETS: dict[str, Preset] = {
    "camera": Preset(steps=100, guided_steps=50, ratio=0.3),
    "object": Preset(steps=300, guided_steps=180, ratio=0.4),
    "image to video": Preset(steps=100, guided_steps=40, ratio=0.3),
    "sketch": Preset(steps=200, guided_steps=120, ratio=0.4),
    # Published weights 20000 and 10000, each a mean over the twelve layers of both blocks.
    "first version": Preset(
        steps=200, guided_steps=120, ratio=None, weight=20000 / 12, cool_down=0,
        block_weights=(("up_blocks.1", 1.0), ("up_blocks.2", 0.5)),
    ),
    # By trial, on the embedded model (docs/FIDELITY.md).
    "fast": Preset(steps=30, guided_steps=20, ratio=0.4, warm_up=0, cool_down=8, update_rule="normalised", k=2),
}
