"""Motion cloning without ComfyUI, with an ``AnimateDiffPipeline`` of diffusers (0.31 or newer).

``pipe`` is the pipeline, ``video`` the reference's file and ``prompt`` what to show instead; ``width`` and
``height`` are pixels. The repository's root is on Python's path::

    import torch

    from motionclone_core.headless import (
        PRESETS, DiffusersAnimateDiff, MotionGuidance, extract, sample, uneven_timesteps
    )
    from motionclone_core.video import read_frames

    torch.set_grad_enabled(False)  # guidance turns it on where it needs it
    frames = read_frames(video, frames=16, width=width, height=height).images  # [f, h, w, 3], 0 to 1
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype)
    latents = pipe.vae.encode(2 * pictures - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    reference = latents.transpose(0, 1)[None]  # [1, c, f, h, w]

    host, preset = DiffusersAnimateDiff(pipe.unet), PRESETS["camera"]
    text, null = pipe.encode_prompt(prompt, pipe.device, 1, True)
    guide = MotionGuidance.of(extract(host, reference, null), preset)
    timesteps = uneven_timesteps(preset.steps, preset.guided_steps, preset.ratio)
    noise = torch.randn_like(reference)
    result = sample(host, noise, text, null, timesteps=timesteps, cfg=preset.cfg, guide=guide)
    clip = pipe.decode_latents(result.to(pipe.vae.dtype))  # [1, 3, f, h, w], -1 to 1

``pipe.video_processor.postprocess_video(clip)`` makes pictures of it. The pipeline's own scheduler is not used.

Shapes used here:
    c, f, h, w   channels, frames, height and width of the latent      l, d   words and width of a text
"""

from __future__ import annotations

import torch
from torch import Tensor

from .extraction import DEFAULT_T_ALPHA, RepresentationBuilder, require_extraction
from .guidance import MotionGuidance
from .hosts.diffusers_animatediff import DiffusersAnimateDiff, observe_reference, sample
from .representation import MotionRepresentation, Provenance
from .schedule import PRESETS, uneven_timesteps
from .taps import DEFAULT_BLOCKS, select_taps


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

    Raises:
        ValueError: a setting is out of range, or the reference is not one clip.
        UnknownTapError: a pattern in ``blocks`` matches nothing.
        RepresentationMismatchError: more frames than the motion modules take.
    """
    if reference.ndim != 5 or reference.shape[0] != 1:
        raise ValueError(f"a reference is one clip of latents [1, c, f, h, w], got {list(reference.shape)}")
    frames, size = reference.shape[2], (reference.shape[3], reference.shape[4])
    require_extraction(t_alpha=t_alpha, k=k, frames=frames)
    builder = RepresentationBuilder(select_taps(host.sites, blocks), k=k, frames=frames, latent_size=size)
    generator = torch.Generator().manual_seed(noise_seed)
    noise = torch.randn(reference.shape, generator=generator).to(reference)
    observe_reference(host, builder, latent=reference, noise=noise, timestep=t_alpha, text=null_text)
    identity = host.identity
    provenance = Provenance(
        source=source,
        architecture=identity.architecture,
        fingerprint=identity.fingerprint,
        t_alpha=t_alpha,
        noise_seed=noise_seed,
    )
    return builder.representation(provenance)


__all__ = [
    "PRESETS",
    "DiffusersAnimateDiff",
    "MotionGuidance",
    "extract",
    "sample",
    "uneven_timesteps",
]
