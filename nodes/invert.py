"""Reference in, its DDIM inversion out; kept in ``motion_inversions/`` of ComfyUI's output folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..motionclone_core.hosts.comfy_host import host_of, require_image_model
from ..motionclone_core.hosts.comfy_inversion import clean_latent, invert, origin_of, timesteps_at
from ..motionclone_core.inversion import DEFAULT_STEPS, Inversion, inversion_timesteps, kept_among
from ..motionclone_core.paths import resolve_inside
from ..motionclone_core.serialization import SUFFIX, load_inversion, save_inversion
from .reference import reference_inputs, reference_latents
from .sockets import InversionSocket, node_schema

FOLDER = "motion_inversions"
log = logging.getLogger(__name__)


class InvertReference(io.ComfyNode):
    """Run the sampler backwards: from the reference to the noise that it would be sampled from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneInvert",
            display_name="Invert Reference (DDIM)",
            description="Finds the noisy latents that the model would sample the reference from, for Extract Motion "
            "Representation. Takes as long as sampling, once: the result is kept on disk.",
            search_aliases=["ddim inversion", "invert video", "inversion", "noise from video"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model that an AnimateDiff-Evolved loader has patched; the one that the motion is read "
                    "with.",
                ),
                io.Conditioning.Input(
                    "conditioning", tooltip="The reference's own prompt: CLIP Text Encode with what it shows."
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULT_STEPS,
                    min=2,
                    max=1000,
                    tooltip="Steps of the inversion, a call of the model each: 1000 as published. More mostly come "
                    "closer to the reference when sampled back.",
                ),
                *reference_inputs(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Which noise levels to keep, such as those of MotionClone Scheduler: of the inversion's "
                    "own those nearest to them. Empty keeps all.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="Name of the file under motion_inversions in the output folder. Empty names it by what it "
                    "is made of.",
                ),
            ],
            outputs=[
                InversionSocket.Output(
                    "inversion",
                    display_name="inversion",
                    tooltip="The noisy latents, for Extract Motion Representation.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioning: Any,
        steps: int,
        images: torch.Tensor | None = None,
        vae: Any = None,
        latent: dict[str, Any] | None = None,
        sigmas: torch.Tensor | None = None,
        name: str = "",
    ) -> io.NodeOutput:
        """See the class."""
        require_image_model(host_of(model), "DDIM inversion")
        timesteps = inversion_timesteps(steps)
        keep = timesteps if sigmas is None else kept_among(timesteps, timesteps_at(model, sigmas))
        samples = reference_latents(images, vae, latent)
        clean = clean_latent(model, samples)
        origin = origin_of(model, clean=clean, conditioning=conditioning, steps=steps)
        path = _path_of(name.strip() or origin.name)
        held = load_inversion(path) if path.is_file() else None
        if held is not None:
            held.require(origin, clean, path.name)
            if set(keep) <= set(held.timesteps):
                log.info("the inversion %s is read from disk", path.name)
                return io.NodeOutput(held.only(keep))
        latents = invert(model, latent=samples, conditioning=conditioning, steps=steps, keep=keep)
        found = Inversion(latents, clean, origin)
        save_inversion(found if held is None else found.with_levels(held), path)
        log.info("the inversion %s is kept: %d levels, %.1f MiB", path.name, len(latents), found.nbytes() / 2**20)
        return io.NodeOutput(found)


def _path_of(name: str) -> Path:
    root = Path(folder_paths.get_output_directory()) / FOLDER
    path = resolve_inside(root, name.removesuffix(SUFFIX) + SUFFIX)
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder in {path.parent}: choose another name")
    return path

