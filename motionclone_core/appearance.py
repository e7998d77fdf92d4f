"""The unguided video beside a guided one: what is read off it at a step, and how the guided one is held against it.

Shapes used here:
    f   frames      p   positions of a tap      y, x   rows and columns of its grid      c   channels of a key
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .grids import Cells, RepresentationMismatchError, Size, halvings
from .representation import MotionRepresentation
from .resampling import foreground_held
from .semantics import (
    Appearance,
    KeyMeans,
    Regions,
    Semantics,
    appearance_regions,
    everywhere,
    key_means,
    mask_on_grid,
    normalised,
    on_grid,
    reference_regions,
    semantic_energy,
)


def word_map(attention: Tensor, latent_size: Size) -> Tensor:
    """Where words lie, from cross-attention to them: 0 to 1 in every frame, float16 on the CPU.

    Args:
        attention: averaged over layers and heads, ``[f, p]``.
        latent_size: height and width of the latent that it was read in.

    Returns:
        ``[f, y, x]``.

    Raises:
        ValueError: it holds what is no number.
    """
    if not bool(attention.isfinite().all()):
        raise ValueError(
            "the cross-attention of the words holds values that are not numbers: the model overflows in its precision, "
            "run it in a wider one (--force-fp32 in ComfyUI)"
        )
    grid = Cells(latent_size, halvings(latent_size, attention.shape[1])).grid
    return normalised(attention.detach().unflatten(1, grid)).to("cpu", torch.float16)


class AppearanceReader:
    """Reads one conditional call of the unguided video: an observer of its taps, and of cross-attention to words.

    Expects one batch entry. Keys that come before the words are known wait for them.

    Args:
        semantics: what to read.
        taps: whose keys.
        frames: of the video.
        latent_size: height and width of its latent.
    """

    def __init__(self, semantics: Semantics, taps: Sequence[str], *, frames: int, latent_size: Size) -> None:
        self._semantics, self._taps = semantics, tuple(taps)
        self._frames, self._latent_size = frames, latent_size
        self._waiting: dict[str, Tensor] = {}
        self._means: dict[str, KeyMeans] = {}
        self._foreground: Tensor | None = None

    @property
    def taps(self) -> tuple[str, ...]:
        return self._taps

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens whose cross-attention it needs; none if a mask or the whole frame takes their place."""
        return () if self._semantics.appearance_mask is not None else self._semantics.words.tokens

    def observe(self, tap: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Receive one tap's keys, ``[p, f, c]``; see `hosts.base.AttentionObserver`."""
        if k.shape[1] != self._frames:
            raise RepresentationMismatchError(
                f"{tap} attends over {k.shape[1]} frames, not over all {self._frames} of the unguided video: take "
                f"context windows away"
            )
        self._waiting[tap] = k
        if not self.tokens or self._foreground is not None:
            self._pool()

    def attend(self, attention: Tensor) -> None:
        """Receive cross-attention to the words, averaged over layers and heads, ``[f, p]``."""
        mapped = normalised(attention.unflatten(1, self._grid(attention.shape[1])))
        self._foreground = (mapped > self._semantics.appearance_threshold).to(mapped.dtype)
        # Taps may all come before the words.
        self._pool()

    def result(self) -> Appearance:
        """What was read.

        Raises:
            ValueError: the call left taps or cross-attention out.
        """
        missing = [tap for tap in self._taps if tap not in self._means]
        if missing:
            raise ValueError(
                f"the unguided video's call never reached {', '.join(missing)}, or not the cross-attention of the "
                f"words: another patch leaves it out"
            )
        return Appearance(dict(self._means), self._foreground)

    def _pool(self) -> None:
        for tap, keys in self._waiting.items():
            self._means[tap] = key_means(keys, self._regions(self._grid(keys.shape[0]), keys.device))
        self._waiting.clear()

    def _regions(self, grid: Size, device: torch.device) -> Regions:
        if self._semantics.everywhere:
            return everywhere(self._frames, grid)
        if self._semantics.appearance_mask is not None:
            mask = mask_on_grid(self._semantics.appearance_mask, self._frames, grid)
            self._foreground = mask if self._foreground is None else self._foreground
            return appearance_regions(mask.to(device))
        return on_grid(appearance_regions(self._foreground), grid)

    def _grid(self, positions: int) -> Size:
        return Cells(self._latent_size, halvings(self._latent_size, positions)).grid


@dataclass(frozen=True)
class Pull:
    """What holds the guided video's keys of one tap against the unguided video's.

    Attributes:
        weight: of the tap's energy.
        regions: of the reference, on the tap's grid.
        means: of the unguided video.
    """

    weight: float
    regions: Regions
    means: KeyMeans

    def to(self, device: torch.device | str) -> Pull:
        """On another device; the tensors are always new, so that autograd may save them."""
        values = tuple(value.clone().to(device) for value in self.means.values)
        filled = tuple(value.clone().to(device) for value in self.means.filled)
        return Pull(self.weight, tuple(r.clone().to(device) for r in self.regions), KeyMeans(values, filled))

    def energy(self, keys: Tensor) -> Tensor:
        """Of keys ``[p, f, c]``, a scalar."""
        return self.weight * semantic_energy(keys, self.regions, self.means)


def reference_foreground(semantics: Semantics, representation: MotionRepresentation) -> Regions:
    """Foreground and background of the reference, on the grid that its words were read in.

    A mask takes the place of the words, on the coarsest grid of the motion.

    Raises:
        RepresentationMismatchError: no words were read with the motion, and no mask is given.
    """
    frames = representation.frames
    if semantics.reference_mask is not None:
        coarsest = min((tap.grid for tap in representation.taps.values()), key=lambda grid: grid[0] * grid[1])
        return reference_regions(mask_on_grid(semantics.reference_mask, frames, coarsest), semantics.sigma)
    held = foreground_held(representation)
    if held is None:
        raise RepresentationMismatchError(
            "this motion was extracted without words, so nothing says where its subject is: connect words of the "
            "reference's prompt to Extract Motion Representation, or a reference_mask to Semantic Guidance"
        )
    return reference_regions((held > semantics.reference_threshold).float(), semantics.sigma)


def pulls(
    semantics: Semantics,
    motions: Sequence[MotionRepresentation],
    appearance: Appearance,
    weights: Mapping[str, float],
    latent_size: Size,
) -> dict[str, Pull]:
    """What holds a call of the model against the unguided video, by tap name.

    Args:
        semantics: the setting.
        motions: of the run; the first says where the reference's subject is, and each tap is read by one of them.
        appearance: what the unguided video shows at this step.
        weights: of each tap's energy.
        latent_size: height and width of the latent that is sampled.
    """
    frames, own = motions[0].frames, None
    if not semantics.everywhere:
        own = reference_foreground(semantics, motions[0])
    made = {}
    for name, weight in weights.items():
        holder = next(motion for motion in motions if name in motion.taps)
        stored = holder.taps[name].grid
        times = halvings(holder.latent_size, stored[0] * stored[1])
        grid = Cells(latent_size, times).grid
        regions = everywhere(frames, grid) if own is None else on_grid(own, grid)
        made[name] = Pull(weight, regions, appearance.means[name])
    return made
