"""Motion cloning without ComfyUI, with an AnimateDiff pipeline ``pipe`` of diffusers.

``reference`` is a video's clean latents, ``[1, c, f, h, w]``::

    host = DiffusersAnimateDiff(pipe.unet)
    text, null = pipe.encode_prompt(prompt, pipe.device, 1, True)
    guide = MotionGuidance.of(extract(host, reference, null), PRESETS["camera"])
    steps = uneven_timesteps(100, 50, 0.3)
    latents = sample(host, torch.randn_like(reference), text, null, guide=guide, timesteps=steps)

and ``pipe.decode_latents(latents)`` gives the pictures.

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
