"""Motion cloning without ComfyUI, with an ``AnimateDiffPipeline`` of diffusers (0.31 or newer).

``pipe`` is the pipeline, ``video`` the reference's file and ``prompt`` what to show instead; ``width`` and
``height`` are pixels. The repository's root is on Python's path::

    from motionclone_core.headless import PRESETS, clone_motion
    from motionclone_core.video import read_frames

    reference = read_frames(video, frames=16, width=width, height=height).images
    clip = clone_motion(pipe, reference, prompt, preset=PRESETS["fast"])  # [f, h, w, 3], 0 to 1

Shapes used here:
    c, f, h, w   channels, frames, height and width of the latent      l, d   words and width of a text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .extraction import DEFAULT_T_ALPHA, RepresentationBuilder, require_extraction
from .guidance import MotionGuidance
from .hosts.crossattention import attending
from .hosts.diffusers_animatediff import DiffusersAnimateDiff, invert, noised, observe_noisy, sample
from .hosts.diffusers_appearance import word_layers
from .representation import MotionRepresentation, Provenance, Window
from .schedule import PRESETS, Preset, uneven_timesteps
from .series import MotionSeries
from .taps import DEFAULT_BLOCKS, select_taps


@torch.no_grad()
def clone_motion(
    pipe: Any,
    reference: NDArray[np.floating],
    prompt: str,
    *,
    negative_prompt: str = "",
    preset: Preset = PRESETS["camera"],
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """A new clip that moves like a reference, as the ComfyUI nodes make it.

    Args:
        pipe: diffusers' AnimateDiffPipeline. Its own scheduler is not used.
        reference: the pictures to follow, ``[f, h, w, 3]``, 0 to 1.
        prompt: what to show instead.
        negative_prompt: what not to show.
        preset: steps, weight and the like.
        seed: of the starting noise, and of the noise that the reference is read under.
        on_step: told after every step how many are done, of how many.

    Returns:
        The pictures, shaped like the reference.

    Raises:
        UnsupportedModelError: the pipeline has no motion modules.
        ValueError: the reference is no clip of pictures as above, or its sides do not fit the autoencoder.
        RepresentationMismatchError: more frames than the motion modules take.
    """
    host, latents = DiffusersAnimateDiff(pipe.unet), encode(pipe, reference)
    text, negative = pipe.encode_prompt(prompt, pipe.device, 1, True, negative_prompt)
    null = text if not prompt else pipe.encode_prompt("", pipe.device, 1, False)[0]
    blocks = ", ".join(block for block, _ in preset.block_weights) or DEFAULT_BLOCKS
    motion = extract(host, latents, null, blocks=blocks, k=preset.k, noise_seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    result = sample(
        host,
        torch.randn(latents.shape, generator=generator).to(latents),
        text,
        negative,
        timesteps=uneven_timesteps(preset.steps, preset.guided_steps, preset.ratio),
        cfg=preset.cfg,
        guide=MotionGuidance.of(motion, preset),
        on_step=None if on_step is None else lambda step, *_: on_step(step.index + 1, preset.steps),
    )
    pictures = pipe.decode_latents(result.to(pipe.vae.dtype))[0]  # [3, f, h, w], -1 to 1
    return (pictures.permute(1, 2, 3, 0).float().cpu().numpy() / 2 + 0.5).clip(0, 1)


@torch.no_grad()
def encode(pipe: Any, pictures: NDArray[np.floating]) -> Tensor:
    """Clean latents ``[1, c, f, h, w]`` of pictures ``[f, h, w, 3]``, 0 to 1, one at a time to save memory.

    Raises:
        ValueError: they are no such pictures, or their sides do not fit the autoencoder.
    """
    _require_pictures(pictures, 2 ** (len(pipe.vae.config.block_out_channels) - 1))
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype)
    latents = torch.cat([pipe.vae.encode(2 * frame - 1).latent_dist.mode() for frame in frames.split(1)])
    return (latents * pipe.vae.config.scaling_factor).transpose(0, 1)[None]


def _require_pictures(pictures: NDArray[np.floating], factor: int) -> None:
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not np.issubdtype(pictures.dtype, np.floating):
        raise ValueError(
            f"pictures are floating-point numbers [f, h, w, 3], got {pictures.dtype} {list(pictures.shape)}"
        )
    low, high = float(pictures.min()), float(pictures.max())
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"pictures lie between 0 and 1, these between {low:g} and {high:g}")
    height, width = pictures.shape[1:3]
    if height % factor or width % factor:
        raise ValueError(f"pictures of {width} x {height} do not fit the autoencoder: take multiples of {factor}")


def extract(
    host: DiffusersAnimateDiff,
    reference: Tensor,
    null_text: Tensor,
    *,
    blocks: str = DEFAULT_BLOCKS,
    k: int = 1,
    t_alpha: int = DEFAULT_T_ALPHA,
    noise_seed: int = 0,
    source: str = "",
    windows: Sequence[Window] | None = None,
    inverted: Tensor | None = None,
    words: Sequence[int] = (),
) -> MotionRepresentation:
    """Read the motion of a reference in one denoising step (paper, §3.3).

    Args:
        host: the model.
        reference: clean latents, ``[1, c, f, h, w]``.
        null_text: what the pass is conditioned on, ``[1, l, d]``; the paper's is the empty prompt.
        blocks: see `taps.select_taps`.
        k: entries to keep per row, 1 to f.
        t_alpha: timestep of the denoising step, 0 to 999.
        noise_seed: of the noise added to the reference.
        source: name of the reference, for people.
        windows: in which it is read, if the model does not see all frames at once: those that it is to guide in.
        inverted: the reference at ``t_alpha`` as `invert` gives it, shaped like it, to be read in place of the noised
            one ("Inversion 2" of the paper's ablation).
        words: tokens of the reference's own prompt; where they lie is kept, for `semantics.Semantics`.

    Raises:
        ValueError: a setting is out of range, or the reference is not one clip.
        UnknownTapError: a pattern in ``blocks`` matches nothing.
        RepresentationMismatchError: more frames than the motion modules take.
    """
    if reference.ndim != 5 or reference.shape[0] != 1:
        raise ValueError(f"a reference is one clip of latents [1, c, f, h, w], got {list(reference.shape)}")
    if inverted is not None and inverted.shape != reference.shape:
        raise ValueError(f"an inversion of shape {list(inverted.shape)} is not of a clip of {list(reference.shape)}")
    frames, size = reference.shape[2], (reference.shape[3], reference.shape[4])
    require_extraction(t_alpha=t_alpha, k=k, frames=frames)
    if words and windows is not None:
        raise ValueError(f"words are read in a clip that the model sees whole, not in {len(windows)} windows")
    builder = RepresentationBuilder(select_taps(host.sites, blocks), k=k, frames=frames, latent_size=size)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(noise_seed)).to(reference)
    z = noised(reference, noise, t_alpha) if inverted is None else inverted
    for window in (tuple(range(frames)),) if windows is None else windows:
        seen = z[:, :, list(window)]
        with attending(word_layers(host.unet) if words else (), words, builder.attend):
            observe_noisy(host, builder.observer(tuple(window)), z=seen, timestep=t_alpha, text=null_text)
    identity = host.identity
    provenance = Provenance(
        source=source,
        architecture=identity.architecture,
        fingerprint=identity.fingerprint,
        t_alpha=t_alpha,
        noise_seed=noise_seed,
    )
    return builder.representation(provenance, words=bool(words))


def extract_series(
    host: DiffusersAnimateDiff, reference: Tensor, text: Tensor, latents: Mapping[int, Tensor], **settings: Any
) -> MotionSeries:
    """Read the motion of a reference at every level of an inversion ("Inversion 1" of the paper's ablation, Eq. 4).

    Args:
        host: the model.
        reference: see `extract`.
        text: likewise; the reference's own caption.
        latents: the inverted latents, by rising timestep; see `invert`.
        settings: of `extract`.

    Raises:
        ValueError: see `extract`.
    """
    readings = (extract(host, reference, text, t_alpha=t, inverted=z, **settings) for t, z in latents.items())
    return MotionSeries(tuple(readings))


__all__ = [
    "PRESETS",
    "DiffusersAnimateDiff",
    "MotionGuidance",
    "clone_motion",
    "encode",
    "extract",
    "extract_series",
    "invert",
    "sample",
    "uneven_timesteps",
]
