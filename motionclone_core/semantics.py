"""Location-aware semantic guidance: where words lie, and what temporal keys average there (the first version).

The keys of the guided video, averaged over the reference's foreground, are pulled to those of an unguided video of the
same noise and prompt (its appearance), averaged over its own; and the background likewise. Pure: no model, no state.

Shapes used here:
    f   frames      y, x   rows and columns of a grid of cells      p   positions, y * x of them, row by row
    c   channels of a key, all heads of it      n   heads      l   tokens of a prompt
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .grids import Size

DEFAULT_WEIGHTS = "up_blocks.1: 200, up_blocks.2: 100"
DEFAULT_THRESHOLD = 0.3
DEFAULT_SIGMA = 5.0
_EPSILON = 1e-5  # of the published program: in every denominator

Regions = tuple[Tensor, ...]
"""How much each cell counts, ``[f, y, x]`` each: foreground and background, or the whole frame alone."""


@dataclass(frozen=True)
class Words:
    """Words of a prompt.

    Attributes:
        prompt: they stand in.
        words: as they were asked for; none is the whole frame.
        tokens: their places in the text model's chunk of tokens.
        encoded: a hash of the prompt as it was encoded; empty if it was not.
    """

    prompt: str = ""
    words: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    encoded: str = ""


@dataclass(frozen=True, eq=False)
class Semantics:
    """What the semantic energy of a run is made of; each is equal to itself alone.

    Attributes:
        words: of the new prompt.
        weights: by block, or by another pattern of tap names; the energy is averaged over the layers that are named.
        alone: the part of the guided steps, the last ones, in which the motion's energy is off.
        reference_threshold: above it lies the foreground of the reference, in attention from 0 to 1.
        appearance_threshold: likewise of the unguided video.
        sigma: of the Gaussian around the reference's foreground, in cells.
        reference_mask: in place of the reference's words: 1 is foreground, ``[f or 1, H, W]`` of any size.
        appearance_mask: in place of the new words, likewise.

    Raises:
        ValueError: a value is out of range, or one side has a mask and the other neither mask nor words.
    """

    words: Words
    weights: Mapping[str, float]
    alone: float = 0.5
    reference_threshold: float = DEFAULT_THRESHOLD
    appearance_threshold: float = DEFAULT_THRESHOLD
    sigma: float = DEFAULT_SIGMA
    reference_mask: Tensor | None = None
    appearance_mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("alone", "reference_threshold", "appearance_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie between 0 and 1")
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"the Gaussian's sigma is {self.sigma}: it must be a number above 0")
        for name in ("reference_mask", "appearance_mask"):
            _require_mask(name, getattr(self, name))
        if self.reference_mask is not None and self.appearance_mask is None and not self.words.tokens:
            raise ValueError(
                "a reference_mask says where the reference's subject is, and nothing where the new one is: name its "
                "words in Encode Prompt with Words, or give an appearance_mask"
            )

    @property
    def active(self) -> bool:
        """Whether any weight is above 0."""
        return any(weight > 0 for weight in self.weights.values())

    @property
    def everywhere(self) -> bool:
        """Whether the whole frame counts, as for the camera's motion: neither words nor masks."""
        return not self.words.tokens and self.reference_mask is None and self.appearance_mask is None


def _require_mask(name: str, mask: Tensor | None) -> None:
    if mask is None:
        return
    if mask.ndim != 3 or not mask.numel():
        raise ValueError(f"{name} has shape {list(mask.shape)}: [frames, height, width] is needed")
    if not bool(mask.isfinite().all()):
        raise ValueError(f"{name} holds values that are not numbers")
    if not bool((mask > 0).any()):
        raise ValueError(f"{name} is empty: draw the foreground into it, or take it away")


@dataclass(frozen=True)
class KeyMeans:
    """What the keys of one tap average in the unguided video.

    Attributes:
        values: a mean for each region, ``[f, c]``, or ``[1, c]`` of the whole frame over all frames.
        filled: in which frames the region holds any cell, ``[f]`` or ``[1]``.
    """

    values: tuple[Tensor, ...]
    filled: tuple[Tensor, ...]


@dataclass(frozen=True)
class Appearance:
    """What the unguided video shows at one step.

    Attributes:
        means: of its keys, by tap name.
        foreground: where the new words lie, 0 or 1, ``[f, y, x]``; None where the whole frame counts.
    """

    means: Mapping[str, KeyMeans]
    foreground: Tensor | None = None


# --- where ----------------------------------------------------------------------------------------


def word_attention(q: Tensor, k: Tensor, heads: int, tokens: Sequence[int]) -> Tensor:
    """Cross-attention to some tokens, averaged over them and over heads; one frame at a time, to save memory.

    Args:
        q: queries of the image, ``[f, p, c]``.
        k: keys of the text, ``[f, l, c]``.
        heads: n.
        tokens: places in the text.

    Returns:
        ``[f, p]``, float32 (float64 for float64).

    Raises:
        ValueError: the text has no such token.
    """
    if max(tokens) >= k.shape[1]:
        raise ValueError(
            f"a word is token {max(tokens)} of its prompt, but the conditioning has {k.shape[1]} tokens: use the "
            f"conditioning and the words of one Encode Prompt with Words"
        )
    dtype = torch.promote_types(q.dtype, torch.float32)
    found = []
    for q_frame, k_frame in zip(q, k, strict=True):
        queries = rearrange(q_frame.to(dtype), "p (n d) -> n p d", n=heads)
        keys = rearrange(k_frame.to(dtype), "l (n d) -> n d l", n=heads)
        attention = (queries @ keys * queries.shape[-1] ** -0.5).softmax(dim=-1)
        found.append(attention[..., list(tokens)].mean(dim=(0, 2)))
    return torch.stack(found)


def normalised(attention: Tensor) -> Tensor:
    """Attention ``[f, y, x]`` stretched to 0 to 1 in every frame, (A - min) / (max - min + 1e-5)."""
    lowest, highest = attention.amin(dim=(1, 2), keepdim=True), attention.amax(dim=(1, 2), keepdim=True)
    return (attention - lowest) / (highest - lowest + _EPSILON)


def gaussian(mask: Tensor, sigma: float) -> Tensor:
    """exp(-(dy^2 + dx^2) / (2 sigma^2)) around the centroid of each frame's mask; 0 where a frame has none.

    Args:
        mask: weights of at least 0, ``[f, y, x]``.
        sigma: in cells.
    """
    mass = mask.sum(dim=(1, 2))
    rows, columns = (torch.arange(n, dtype=mask.dtype, device=mask.device) for n in mask.shape[1:])
    divisor = mass.where(mass > 0, torch.ones_like(mass))
    dy = rows - ((mask.sum(dim=2) * rows).sum(dim=1) / divisor)[:, None]
    dx = columns - ((mask.sum(dim=1) * columns).sum(dim=1) / divisor)[:, None]
    falls = [torch.exp(-distance.square() / (2.0 * sigma**2)) for distance in (dy, dx)]
    return falls[0][:, :, None] * falls[1][:, None, :] * (mass > 0)[:, None, None]


def reference_regions(mask: Tensor, sigma: float) -> Regions:
    """Foreground G * mask and background (1 - G) * (1 - mask) of a reference's mask ``[f, y, x]``."""
    around = gaussian(mask, sigma)
    return around * mask, (1.0 - around) * (1.0 - mask)


def appearance_regions(mask: Tensor) -> Regions:
    """Foreground and background of an unguided video's mask ``[f, y, x]``."""
    return mask, 1.0 - mask


def everywhere(frames: int, grid: Size) -> Regions:
    """The one region that is the whole frame."""
    return (torch.ones(frames, *grid),)


def on_grid(regions: Regions, grid: Size) -> Regions:
    """Regions over another grid: each cell takes the nearest one."""
    if all(tuple(region.shape[1:]) == tuple(grid) for region in regions):
        return regions
    return tuple(torch.nn.functional.interpolate(region[:, None], grid, mode="nearest")[:, 0] for region in regions)


def mask_on_grid(mask: Tensor, frames: int, grid: Size) -> Tensor:
    """A mask of any size as the part of each cell that it covers, ``[f, y, x]`` in float32.

    Raises:
        ValueError: it has another number of frames; the message says both.
    """
    if len(mask) not in (1, frames):
        raise ValueError(
            f"a mask of Semantic Guidance has {len(mask)} frames, the video {frames}: give one mask, or one for each "
            f"frame"
        )
    mask = mask.detach().float().clamp(0.0, 1.0)[:, None]
    # Enlarged first where it is coarse: a cell of few pixels takes the nearest.
    size = [max(side, cells) for side, cells in zip(mask.shape[2:], grid, strict=True)]
    fine = torch.nn.functional.interpolate(mask, size, mode="nearest")
    return torch.nn.functional.adaptive_avg_pool2d(fine, tuple(grid))[:, 0].expand(frames, -1, -1)


# --- how far apart --------------------------------------------------------------------------------


def pooled(keys: Tensor, region: Tensor) -> Tensor:
    """The mean key of a region in each frame, sum(k * m) / (sum(m) + 1e-5).

    Args:
        keys: ``[p, f, c]``.
        region: m, ``[f, y, x]``.

    Returns:
        ``[f, c]``, float32 (float64 for float64).
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    weights = rearrange(region.to(keys.device, dtype), "f y x -> f (y x)")
    return torch.einsum("pfc,fp->fc", keys.to(dtype), weights) / (weights.sum(dim=1, keepdim=True) + _EPSILON)


def _means(keys: Tensor, regions: Regions) -> tuple[Tensor, ...]:
    """Of keys ``[p, f, c]`` in each region, ``[f, c]``; of the whole frame the plain mean."""
    if len(regions) == 1:
        return (keys.mean(dim=0, dtype=torch.promote_types(keys.dtype, torch.float32)),)
    return tuple(pooled(keys, region) for region in regions)


def key_means(keys: Tensor, regions: Regions) -> KeyMeans:
    """What keys ``[p, f, c]`` average in each region; of the whole frame, over all frames too."""
    values = _means(keys, regions)
    filled = tuple((region.sum(dim=(1, 2)) > 0).to(keys.device) for region in regions)
    if len(regions) == 1:
        return KeyMeans((values[0].mean(dim=0, keepdim=True),), (filled[0][:1],))
    return KeyMeans(values, filled)


def semantic_energy(keys: Tensor, regions: Regions, means: KeyMeans) -> Tensor:
    """Mean squared distance of the mean keys from the unguided video's, summed over the regions.

    Where a region is empty on either side there is nothing to compare: its frame counts as 0 (this project).

    Args:
        keys: of the guided video, ``[p, f, c]``.
        regions: of the reference, on the keys' grid.
        means: of the unguided video.

    Returns:
        A scalar of the keys' dtype, float32 at least.
    """
    total = keys.new_zeros((), dtype=torch.promote_types(keys.dtype, torch.float32))
    sides = zip(regions, _means(keys, regions), means.values, means.filled, strict=True)
    for region, own, value, filled in sides:
        counts = filled & (region.sum(dim=(1, 2)) > 0).to(filled.device)
        distances = (own - value).square() * counts[:, None]
        total = total + distances.mean()
    return total
