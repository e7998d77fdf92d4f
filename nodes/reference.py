"""The reference of a node: images and a VAE, or latents."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io


def reference_inputs(*, images: str = "at the size to sample at. Needs") -> list[Any]:
    """The inputs, all of them optional: exactly one way is to be connected; ``images`` is said of the frames."""
    return [
        io.Image.Input(
            "images",
            optional=True,
            tooltip=f"Frames of the reference, {images} the VAE; leave latent empty.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Encodes the images."),
        io.Latent.Input(
            "latent",
            optional=True,
            tooltip="The reference, encoded already. Leave images and VAE empty.",
        ),
    ]


def reference_latents(images: torch.Tensor | None, vae: Any, latent: dict[str, Any] | None) -> torch.Tensor:
    """Clean latents of the reference, as the model's own VAE gives them.

    Raises:
        ValueError: not exactly one way is connected.
    """
    if (images is None) == (latent is None):
        raise ValueError(
            "connect the reference once: either images together with a VAE, or a latent "
            f"({'both are' if latent is not None else 'neither is'} connected)"
        )
    if latent is not None:
        return latent["samples"]
    if vae is None:
        raise ValueError("the reference is given as images: connect a VAE to encode them, or give a latent")
    return vae.encode(images[..., :3])
