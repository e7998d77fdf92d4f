"""A motion read at several noise levels: {A_ref^t, M^t} of Eq. 4, one reading for the steps nearest to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .inversion import nearest
from .representation import MotionRepresentation


@dataclass(frozen=True)
class MotionSeries:
    """Readings of one clip that differ in the timestep, ``provenance.t_alpha``, and in what was read there.

    Attributes:
        readings: by rising timestep.

    Raises:
        ValueError: there are none, two are of one timestep, or they differ in more; the message says what.
    """

    readings: tuple[MotionRepresentation, ...]

    def __post_init__(self) -> None:
        if not self.readings:
            raise ValueError("a motion read at no noise level: at least 1 is needed")
        timesteps = self.timesteps
        if list(timesteps) != sorted(set(timesteps)):
            raise ValueError(f"the timesteps of a motion's readings rise, got {list(timesteps)}")
        first = self.readings[0]
        for reading in self.readings[1:]:
            _require_alike(first, reading)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """At which it was read, rising."""
        return tuple(reading.provenance.t_alpha for reading in self.readings)

    @property
    def frames(self) -> int:
        """Of the video that it guides."""
        return self.readings[0].frames

    @property
    def k(self) -> int:
        return self.readings[0].k

    def at(self, timestep: float) -> MotionRepresentation:
        """The reading nearest to a timestep."""
        return self.readings[self.timesteps.index(nearest(self.timesteps, timestep))]

    @property
    def middle(self) -> MotionRepresentation:
        """The reading in the middle; all are alike in everything but the timestep and what was read."""
        return self.at((self.timesteps[0] + self.timesteps[-1]) / 2)

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(reading.nbytes() for reading in self.readings)

    def edited(self, edit: Callable[[MotionRepresentation], MotionRepresentation]) -> MotionSeries:
        """The same with an edit made to each reading."""
        return MotionSeries(tuple(edit(reading) for reading in self.readings))


AnyReading = MotionRepresentation | MotionSeries


def _require_alike(first: MotionRepresentation, other: MotionRepresentation) -> None:
    def compared(one: MotionRepresentation) -> dict[str, object]:
        taps = {name: (tap.grid, tap.heads, tap.k) for name, tap in one.taps.items()}
        made = (one.provenance.architecture, one.provenance.fingerprint)
        places = {"frame": one.frame, "timing": one.timing, "size": one.latent_size}
        return {"windows": tuple(one.windows), "layers": taps, "model": made, **places}

    here, there = compared(first), compared(other)
    differ = [what for what in here if here[what] != there[what]]
    if not _same(first.mask, other.mask):
        differ.append("mask")
    if differ:
        raise ValueError(
            f"the readings at timesteps {first.provenance.t_alpha} and {other.provenance.t_alpha} differ in their "
            f"{', '.join(differ)}: read all of them off one clip with one model, and edit all alike"
        )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)
