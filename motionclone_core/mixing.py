"""Several motions in one run: each with its strength, and a curve of it over the steps (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from .grids import RepresentationMismatchError
from .representation import MotionRepresentation
from .schedule import Ramp
from .series import AnyReading, MotionSeries
from .taps import execution_order

AnyMotion = TypeVar("AnyMotion", "MotionRepresentation", "MotionSeries", "Motion")


@dataclass(frozen=True)
class _Product:
    """Ramps that multiply."""

    ramps: tuple[Ramp, ...]

    def ramp(self, step: int, total_steps: int) -> float:
        return math.prod(one.ramp(step, total_steps) for one in self.ramps)


@dataclass(frozen=True)
class MotionPart:
    """One motion among others.

    Attributes:
        representation: the motion; a series guides each step by the reading nearest to it.
        strength: what the run's weight is multiplied by for it.
        ramp: what that is multiplied by from step to step; None is 1.
    """

    representation: AnyReading
    strength: float = 1.0
    ramp: Ramp | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength) or self.strength < 0:
            raise ValueError(f"the strength of a motion is {self.strength}: it must be a number of at least 0")

    def at(self, timestep: float) -> MotionRepresentation:
        """What it is held against in a step at a timestep."""
        motion = self.representation
        return motion.at(timestep) if isinstance(motion, MotionSeries) else motion

    @property
    def middle(self) -> MotionRepresentation:
        """What stands for all of its readings, which differ in what was read alone."""
        motion = self.representation
        return motion.middle if isinstance(motion, MotionSeries) else motion

    def stronger(self, strength: float, ramp: Ramp | None = None) -> MotionPart:
        """The same with its strength multiplied, and with a curve that multiplies its own."""
        ramps = tuple(one for one in (self.ramp, ramp) if one is not None)
        return MotionPart(self.representation, self.strength * strength, _Product(ramps) if ramps else None)

    def strength_at(self, step: int, total_steps: int) -> float:
        """Its strength at a step."""
        return self.strength * (1.0 if self.ramp is None else self.ramp.ramp(step, total_steps))


@dataclass(frozen=True)
class Motion:
    """What a run follows: one motion or several.

    Raises:
        RepresentationMismatchError: there are none, or they cannot lead one video; the message says which, and why.
        ValueError: the strength of every one is 0.
    """

    parts: tuple[MotionPart, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise RepresentationMismatchError("a motion of no parts: at least 1 is needed")
        if not any(part.strength for part in self.parts):
            raise ValueError("the strength of every motion is 0: nothing would be followed; raise one of them")
        first = self.parts[0].middle
        for number, part in enumerate(self.parts[1:], start=2):
            _require_alike(first, part.middle, number)

    @classmethod
    def of(cls, motion: Motion | AnyReading) -> Motion:
        """A motion from what a socket carries."""
        return motion if isinstance(motion, Motion) else cls((MotionPart(motion),))

    def at(self, timestep: float | None) -> Motion:
        """The same as it guides a step at a timestep: of every series one reading, at None the one in the middle."""
        parts = (replace(p, representation=p.middle if timestep is None else p.at(timestep)) for p in self.parts)
        return Motion(tuple(parts))

    @property
    def representations(self) -> tuple[MotionRepresentation, ...]:
        """One for each part: of a series the one that stands for it."""
        return tuple(part.middle for part in self.parts)

    @property
    def frames(self) -> int:
        return self.parts[0].middle.frames

    @property
    def taps(self) -> tuple[str, ...]:
        """All taps that one of them reads, in the order of execution."""
        names = {name for representation in self.representations for name in representation.taps}
        return tuple(sorted(names, key=execution_order))

    def strengths(self, step: int, total_steps: int) -> Sequence[float]:
        """Of each part at a step."""
        return [part.strength_at(step, total_steps) for part in self.parts]

    def coverage(self, strengths: Sequence[float]) -> float:
        """How much of the clip is guided at given strengths, of which the largest counts as 1; at most 1."""
        largest = max(strengths)
        squares = [(s / largest) ** 2 * r.coverage for s, r in zip(strengths, self.representations, strict=True) if s]
        return min(sum(squares), 1.0)


def edited(motion: AnyMotion, edit: Callable[[MotionRepresentation], MotionRepresentation]) -> AnyMotion:
    """A motion with an edit made to each of its parts, and to each of their readings."""
    if isinstance(motion, Motion):
        return Motion(tuple(replace(part, representation=edited(part.representation, edit)) for part in motion.parts))
    return motion.edited(edit) if isinstance(motion, MotionSeries) else edit(motion)


def _require_alike(first: MotionRepresentation, other: MotionRepresentation, number: int) -> None:
    groups = (first.provenance.group, other.provenance.group)
    if groups[0] != groups[1]:
        raise RepresentationMismatchError(
            f"a frame of motion 1 is {groups[0]} of the video, one of motion {number} is {groups[1]}: one model cannot "
            f"follow both"
        )
    if other.frames != first.frames:
        raise RepresentationMismatchError(
            f"motion 1 has {first.frames} frames and motion {number} has {other.frames}: put Retime Motion before one "
            f"of them"
        )
    read = (set(first.windows), set(other.windows))
    if first.timing is None and other.timing is None and not (read[0] <= read[1] or read[1] <= read[0]):
        raise RepresentationMismatchError(
            f"motion 1 and motion {number} were read in other windows ({len(read[0])} and {len(read[1])} of them): "
            f"extract both with one MODEL and its Context Options, or put Retime Motion before one of them"
        )
    made = (first.provenance.architecture, other.provenance.architecture)
    if all(made) and made[0] != made[1]:
        raise RepresentationMismatchError(
            f"motion 1 was made with {made[0]} and motion {number} with {made[1]}: one model cannot follow both"
        )
