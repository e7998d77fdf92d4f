"""DDIM inversion: the noisy latents that a clip would be sampled from (first version's program; pure).

Shapes used here:
    f   frames      c, h, w   channels, height and width of the latent
    z   a noisy latent of unit variance, z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps      x = z sqrt(1 + sigma^2)
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .grids import RepresentationMismatchError, Size
from .schedule import TRAIN_TIMESTEPS

log = logging.getLogger(__name__)

DEFAULT_STEPS = 100
PUBLISHED_STEPS = 1000
# Encoders do not give the same digits on every machine and in every batch; another clip is further away than this.
_SAME_CLIP = 0.01
_DIGITS = 16


class InversionMismatchError(RepresentationMismatchError):
    """An inversion is of another clip, model or prompt, or has other steps; the message says both sides."""


def inversion_timesteps(steps: int) -> list[int]:
    """The timesteps that an inversion goes through: ``round(linspace(0, 999, steps))``, rising.

    Raises:
        ValueError: there are fewer than 2 steps, or more than there are timesteps.
    """
    if not 2 <= steps <= TRAIN_TIMESTEPS:
        raise ValueError(f"an inversion of {steps} steps: choose from 2 to {TRAIN_TIMESTEPS}")
    return [round(float(t)) for t in np.linspace(0, TRAIN_TIMESTEPS - 1, steps)]


@dataclass(frozen=True)
class Level:
    """A noise level: its timestep, 0 to 999, and its sigma."""

    timestep: int
    sigma: float


def risen(z: Tensor, noise: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One step of DDIM towards more noise: in x it is Euler's, ``x + noise (sigma_next - sigma)``.

    Args:
        z: at ``sigma``, any shape.
        noise: predicted, same shape.
        sigma: 0 at the clean latent.
        sigma_next: above it.

    Raises:
        ValueError: the noise level does not rise.
    """
    if not 0.0 <= sigma < sigma_next:
        raise ValueError(f"an inversion needs a rising noise level, but sigma goes from {sigma} to {sigma_next}")
    return (z * math.sqrt(1 + sigma**2) + noise * (sigma_next - sigma)) / math.sqrt(1 + sigma_next**2)


def inverted(
    latent: Tensor, levels: Iterable[Level], noise_in: Callable[[Tensor, Level], Tensor]
) -> Iterator[tuple[Level, Tensor]]:
    """Each level with its z, from the clean latent up.

    As in the first version's program, the network is told the level that a step rises to while it sees the latent of
    the level before. There that is the timestep less ``1000 // steps``; here it is the level itself, so that nothing
    drifts where ``steps`` does not divide 999. With 1000 steps both are the same.

    Args:
        latent: clean, any shape.
        levels: rising.
        noise_in: the noise that the network sees in a z, told a level.
    """
    z, sigma = latent, 0.0
    for level in levels:
        z = risen(z, noise_in(z, level), sigma, level.sigma)
        sigma = level.sigma
        yield level, z


def nearest(timesteps: Collection[int], wanted: float) -> int:
    """The timestep nearest to a wanted one; of two as near the lower one."""
    return min(timesteps, key=lambda timestep: (abs(timestep - wanted), timestep))


def kept_among(timesteps: Collection[int], wanted: Iterable[float]) -> frozenset[int]:
    """Those of an inversion's timesteps that are nearest to the wanted ones."""
    return frozenset(nearest(timesteps, timestep) for timestep in wanted)


def digest(*tensors: Tensor) -> str:
    """A fingerprint of tensors: of their shapes and all their values, in float32."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr(tuple(tensor.shape)).encode())
        found.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return found.hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class InversionOrigin:
    """What an inversion was made of.

    Attributes:
        clip: fingerprint of the clean latents.
        model: of the weights, their patches and the noise schedule.
        conditioning: of what the network was conditioned on.
        steps: how many the inversion had.
    """

    clip: str
    model: str
    conditioning: str
    steps: int

    @property
    def name(self) -> str:
        """A file name of its own."""
        return f"{self.clip}-{self.model}-{self.conditioning}-{self.steps}"

    def require(self, wanted: InversionOrigin, where: str) -> None:
        """Check that it is what is wanted.

        Args:
            wanted: what is.
            where: whose origin this is, for the message.

        Raises:
            InversionMismatchError: it is not; the message says what differs, and both sides.
        """
        has, needs = asdict(self), asdict(wanted)
        named = {"conditioning": "prompt", "steps": "number of steps"}
        differ = [key for key in has if has[key] != needs[key]]
        if differ:
            others = " and ".join(f"another {named.get(key, key)} ({has[key]}, not {needs[key]})" for key in differ)
            raise InversionMismatchError(f"{where} is of {others}: choose another name, or leave it empty")


@dataclass(frozen=True)
class Inversion:
    """The noisy latents that a clip would be sampled from.

    Attributes:
        latents: z of each level that is kept, float32, ``[f, c, h, w]``, by timestep, rising.
        clean: z_0 of the clip, in the model's scale, same shape.
        origin: what it was made of.

    Raises:
        ValueError: nothing is kept, the shapes differ, or something is no number.
    """

    latents: Mapping[int, Tensor]
    clean: Tensor
    origin: InversionOrigin

    def __post_init__(self) -> None:
        if not self.latents:
            raise ValueError("an inversion that keeps no noise level: at least 1 is needed")
        shapes = {tuple(latent.shape) for latent in (self.clean, *self.latents.values())}
        if len(shapes) > 1 or self.clean.ndim != 4:
            raise ValueError(f"the latents of an inversion have one shape [f, c, h, w], got {sorted(shapes)}")
        if list(self.latents) != sorted(set(self.latents)) or not all(0 <= t < TRAIN_TIMESTEPS for t in self.latents):
            raise ValueError(f"the timesteps of an inversion rise from 0 to 999, got {list(self.latents)}")
        for timestep, latent in self.latents.items():
            if not bool(latent.isfinite().all()):
                raise ValueError(
                    f"the inverted latent at timestep {timestep} holds values that are not numbers: the model "
                    f"overflows in its precision, run it in a wider one (--force-fp32 in ComfyUI)"
                )

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Those that are kept, rising."""
        return tuple(self.latents)

    @property
    def frames(self) -> int:
        return self.clean.shape[0]

    @property
    def latent_size(self) -> Size:
        return (self.clean.shape[2], self.clean.shape[3])

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(latent.nbytes for latent in (self.clean, *self.latents.values()))

    def level_at(self, timestep: int) -> int:
        """The kept timestep nearest to one; says so if it is another."""
        found = nearest(self.timesteps, timestep)
        if found != timestep:
            log.info("the inversion has no latent at timestep %d: the motion is read at %d", timestep, found)
        return found

    def only(self, timesteps: Collection[int]) -> Inversion:
        """The same with fewer levels."""
        return replace(self, latents={t: latent for t, latent in self.latents.items() if t in timesteps})

    def with_levels(self, other: Inversion) -> Inversion:
        """The same with those levels added that another one of the same origin has."""
        joined = {**other.latents, **self.latents}
        return replace(self, latents={timestep: joined[timestep] for timestep in sorted(joined)})

    def require(self, wanted: InversionOrigin, clean: Tensor, where: str) -> None:
        """Check that it is what is wanted.

        Args:
            wanted: what is.
            clean: z_0 of the clip, in the model's scale; encoded twice it may differ in the last digits.
            where: the name of its file.

        Raises:
            InversionMismatchError: it is not; see `InversionOrigin.require`.
        """
        same = clean.shape == self.clean.shape and _alike(clean, self.clean)
        replace(self.origin, clip=wanted.clip if same else self.origin.clip).require(wanted, where)

    def require_clip(self, clean: Tensor, clip: str) -> None:
        """Check that it was made of a clip.

        Args:
            clean: its z_0, in the model's scale, ``[f, c, h, w]``.
            clip: its fingerprint.

        Raises:
            InversionMismatchError: it was not; the message says both sides.
        """
        if clean.shape != self.clean.shape:
            raise InversionMismatchError(
                f"the inversion is of a clip of {_measures(self.clean)}, the reference has {_measures(clean)}: invert "
                f"the reference that the motion is to be read off"
            )
        if clip != self.origin.clip and not _alike(clean, self.clean):
            raise InversionMismatchError(
                f"the inversion is of another clip ({self.origin.clip}) than the reference ({clip}): invert the "
                f"reference that the motion is to be read off"
            )

    def require_model(self, model: str) -> None:
        """Check that it was made with a model, by its fingerprint.

        Raises:
            InversionMismatchError: it was not; the message says both sides.
        """
        if model != self.origin.model:
            raise InversionMismatchError(
                f"the inversion was made with another model ({self.origin.model}) than this one ({model}): use one "
                f"MODEL for both, or invert anew"
            )


def _measures(latent: Tensor) -> str:
    frames, _, height, width = latent.shape
    return f"{frames} frames of {width} x {height} latent cells"


def _alike(one: Tensor, other: Tensor) -> bool:
    difference = torch.linalg.vector_norm(one.float() - other.float())
    return float(difference) <= _SAME_CLIP * float(torch.linalg.vector_norm(other.float()))


def levels_of(timesteps: Sequence[int], sigmas: Sequence[float]) -> list[Level]:
    """Levels from timesteps and their sigmas.

    Raises:
        ValueError: the sigmas do not rise: a noise schedule that tells fewer levels apart.
    """
    for index in range(1, len(sigmas)):
        if not sigmas[index - 1] < sigmas[index]:
            raise ValueError(
                f"this MODEL's noise schedule has one level for the timesteps {timesteps[index - 1]} and "
                f"{timesteps[index]}: invert with fewer than {len(timesteps)} steps"
            )
    return [Level(int(timestep), float(sigma)) for timestep, sigma in zip(timesteps, sigmas, strict=True)]
