"""Reference in, motion representation out."""

from __future__ import annotations

import logging
from typing import Any

import comfy.sample
import torch
from comfy_api.latest import io

from ..motionclone_core.extraction import DEFAULT_T_ALPHA, RepresentationBuilder, require_extraction
from ..motionclone_core.hosts.comfy_extraction import run_once
from ..motionclone_core.hosts.comfy_host import host_of
from ..motionclone_core.representation import Provenance, latent_frames
from ..motionclone_core.taps import AUTO_BLOCKS, select_taps
from .sockets import MotionRep, node_schema

log = logging.getLogger(__name__)


class ExtractMotionRepresentation(io.ComfyNode):
    """Noise the reference to t_alpha, run the model on it once, keep the strongest temporal attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneExtract",
            display_name="Extract Motion Representation",
            description="Reads the motion of a reference video off the model's temporal attention, in one "
            "denoising step. Connect either a LATENT, or images and a VAE.",
            search_aliases=["motion transfer", "video motion transfer", "animatediff motion", "read motion"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model you sample with: one that an AnimateDiff-Evolved loader has patched, a "
                    "CogVideoX or a Wan 2.1 / 2.2.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What the reference is read under. Normally CLIP Text Encode with an empty text.",
                ),
                io.Int.Input(
                    "t_alpha",
                    default=DEFAULT_T_ALPHA,
                    min=0,
                    max=999,
                    tooltip="Noise level of the reading, a timestep: 400 as published. Higher sees coarser motion. "
                    "Of Wan, the noise level itself in thousandths.",
                ),
                io.Int.Input(
                    "k",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Entries of temporal attention to keep per row, from 1 to the number of frames. 1 as "
                    "published, 2 for the preset fast; many let appearance leak in.",
                ),
                io.String.Input(
                    "blocks",
                    default=AUTO_BLOCKS,
                    tooltip="Blocks to read, separated by commas. auto is up_blocks.1 of AnimateDiff, as published, "
                    "and the middle of a transformer. Others: down_blocks.2, mid_block, parts such as "
                    "up_blocks.1.motion.0; of CogVideoX and Wan blocks.12.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the noise that is added to the reference.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Frames of the reference, at the size to sample at; of CogVideoX and Wan 4 n + 1. "
                    "Needs the VAE; leave latent empty.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the images."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The reference, encoded already. Leave images and VAE empty.",
                ),
                io.String.Input(
                    "source",
                    default="",
                    optional=True,
                    tooltip="A name for the reference, kept in the representation and in saved files.",
                ),
            ],
            outputs=[
                MotionRep.Output(
                    "motion_rep", display_name="motion_rep", tooltip="The motion of the reference."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioning: Any,
        t_alpha: int,
        k: int,
        blocks: str,
        seed: int,
        images: torch.Tensor | None = None,
        vae: Any = None,
        latent: dict[str, Any] | None = None,
        source: str = "",
    ) -> io.NodeOutput:
        """See the class."""
        host = host_of(model)
        log.info("motion is read from %s", host.title)
        taps = select_taps(host.sites, host.default_blocks if blocks.strip() == AUTO_BLOCKS else blocks)
        _require_reference(images, vae, latent)
        if images is not None:
            latent_frames(len(images), host.latent_group)
        samples = latent["samples"] if latent is not None else vae.encode(images[..., :3])
        video = host.video(samples)
        require_extraction(t_alpha=t_alpha, k=k, frames=video.frames)
        builder = RepresentationBuilder(taps, k=k, frames=video.frames, latent_size=(video.height, video.width))
        noise = comfy.sample.prepare_noise(samples, seed)
        run_once(
            model,
            builder.observer,
            latent=samples,
            noise=noise,
            timestep=t_alpha,
            conditioning=conditioning,
            seed=seed,
        )
        identity = host.identity
        provenance = Provenance(source, identity.architecture, identity.fingerprint, t_alpha, seed, host.group)
        return io.NodeOutput(builder.representation(provenance))


def _require_reference(images: torch.Tensor | None, vae: Any, latent: dict[str, Any] | None) -> None:
    """Check that the reference is connected in one way."""
    if (images is None) == (latent is None):
        raise ValueError(
            "connect the reference once: either images together with a VAE, or a latent "
            f"({'both are' if latent is not None else 'neither is'} connected)"
        )
    if latent is None and vae is None:
        raise ValueError("the reference is given as images: connect a VAE to encode them, or give a latent")
