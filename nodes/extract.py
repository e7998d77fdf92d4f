"""Reference in, motion representation out."""

from __future__ import annotations

import logging
from typing import Any

import comfy.sample
import comfy.utils
import torch
from comfy_api.latest import io

from ..motionclone_core.extraction import DEFAULT_T_ALPHA, RepresentationBuilder, require_extraction
from ..motionclone_core.hosts.comfy_extraction import run_once
from ..motionclone_core.hosts.comfy_host import host_of, require_image_model
from ..motionclone_core.hosts.comfy_inversion import noisy_latents
from ..motionclone_core.hosts.comfy_words import stand_in
from ..motionclone_core.inversion import Inversion
from ..motionclone_core.representation import Provenance, latent_frames
from ..motionclone_core.semantics import Words
from ..motionclone_core.series import MotionSeries
from ..motionclone_core.taps import AUTO_BLOCKS, select_taps
from .reference import reference_inputs, reference_latents
from .sockets import InversionSocket, MotionRep, MotionWords, node_schema

log = logging.getLogger(__name__)
_OTHER_PROMPT = (
    "the words %s are of the prompt %r, and the reference is read under another conditioning: connect the one of the "
    "same Encode Prompt with Words"
)


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
                    tooltip="Entries of temporal attention to keep per row, from 1 to the number of frames (of a "
                    "transformer: latent frames). 1 as published, 2 for the preset fast; many let appearance leak in.",
                ),
                io.String.Input(
                    "blocks",
                    default=AUTO_BLOCKS,
                    tooltip="Blocks to read, separated by commas. auto is up_blocks.1 of AnimateDiff, as published, "
                    "those just before the middle of Wan, the last quarter of CogVideoX. Others: down_blocks.2, "
                    "mid_block, parts such as up_blocks.1.motion.0; of CogVideoX and Wan blocks.12.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the noise that is added to the reference.",
                ),
                *reference_inputs(
                    images="at the size to sample at; of CogVideoX and Wan 4 n + 1, of CogVideoX 1.5 8 n + 1. Needs"
                ),
                io.String.Input(
                    "source",
                    default="",
                    optional=True,
                    tooltip="A name for the reference, kept in the representation and in saved files.",
                ),
                InversionSocket.Input(
                    "inversion",
                    optional=True,
                    tooltip="The same reference from Invert Reference (DDIM): it is read in place of the noised one, "
                    "at the kept level nearest to t_alpha. Give the reference's own prompt as conditioning.",
                ),
                io.Boolean.Input(
                    "every_level",
                    default=False,
                    optional=True,
                    tooltip="Read the inversion at every level that it keeps, each for the steps nearest to it. Needs "
                    "the inversion.",
                ),
                MotionWords.Input(
                    "words",
                    optional=True,
                    tooltip="Words of the reference's prompt, for Semantic Guidance: keeps where they lie. Connect the "
                    "conditioning of the same Encode Prompt with Words.",
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
        inversion: Inversion | None = None,
        every_level: bool = False,
        words: Words | None = None,
    ) -> io.NodeOutput:
        """See the class."""
        host = host_of(model)
        log.info("motion is read from %s", host.title)
        if inversion is not None:
            require_image_model(host, "DDIM inversion")
        if words is not None and not stand_in(words, conditioning):
            log.warning(_OTHER_PROMPT, ", ".join(words.words), words.prompt)
        taps = select_taps(host.sites, blocks, auto=host.default_blocks)
        if images is not None:
            latent_frames(len(images), host.group)
        samples = reference_latents(images, vae, latent)
        video = host.video(samples)
        if host.clips(samples) > 1:
            raise ValueError(f"the reference holds {host.clips(samples)} videos, and a motion is read off one")
        require_extraction(t_alpha=t_alpha, k=k, frames=video.frames)
        latents = noisy_latents(model, samples, inversion, t_alpha=t_alpha, every_level=every_level)
        noise = comfy.sample.prepare_noise(samples, seed)
        identity, size = host.identity, (video.height, video.width)
        progress = comfy.utils.ProgressBar(len(latents))
        readings = []
        for timestep, inverted in latents.items():
            builder = RepresentationBuilder(taps, k=k, frames=video.frames, latent_size=size)
            run = {"latent": samples, "noise": noise, "timestep": timestep, "inverted": inverted}
            read = {"tokens": words.tokens if words is not None else (), "attend": builder.attend}
            run_once(model, builder.observer, **run, **read, conditioning=conditioning, seed=seed)
            made = Provenance(source, identity.architecture, identity.fingerprint, timestep, seed, host.group)
            readings.append(builder.representation(made, words=bool(words and words.tokens)))
            progress.update(1)
        return io.NodeOutput(MotionSeries(tuple(readings)) if every_level else readings[0])
