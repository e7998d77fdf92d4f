"""Latents of the drawn clips as video autoencoders of diffusion transformers lay them out: a frame that is four.

The first frame stands alone, and after it every four frames are one, as in the causal autoencoders of CogVideoX and
Wan; here the four lie side by side in the channels.

Shapes used here:
    c   channels of a picture's latent      f   frames, 4 (t - 1) + 1 of them      t   latent frames      y, x   cells
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

GROUP = 4


def latent_frames(frames: int) -> int:
    """How many latent frames hold so many frames.

    Raises:
        ValueError: they do not come out even.
    """
    if frames < 1 or (frames - 1) % GROUP:
        raise ValueError(f"{frames} frames cannot be grouped: one frame and a multiple of {GROUP} more are needed")
    return (frames - 1) // GROUP + 1


def grouped(latents: Tensor) -> Tensor:
    """Latents of single frames ``[..., c, f, y, x]`` to ``[..., 4 c, t, y, x]``; the first frame fills its group."""
    latent_frames(latents.shape[-3])
    first = latents[..., :1, :, :].expand(*latents.shape[:-3], GROUP - 1, *latents.shape[-2:])
    return rearrange(torch.cat([first, latents], -3), "... c (t g) y x -> ... (g c) t y x", g=GROUP)


def ungrouped(latents: Tensor) -> Tensor:
    """The reverse of `grouped`; the first frame is the mean of its group."""
    frames = rearrange(latents, "... (g c) t y x -> ... c (t g) y x", g=GROUP)
    first = frames[..., :GROUP, :, :].mean(-3, keepdim=True)
    return torch.cat([first, frames[..., GROUP:, :, :]], -3)
