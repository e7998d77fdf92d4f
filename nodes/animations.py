"""Pictures that play in a node."""

from __future__ import annotations

import secrets

import torch
from comfy_api.latest import io, ui

_QUALITY = 90


def animated(pictures: torch.Tensor, fps: float) -> ui.SavedImages:
    """Pictures ``[f, H, W, 3]`` as one animation in ComfyUI's temp folder, for a node's ``ui``."""
    file = ui.ImageSaveHelper.save_animated_webp(
        pictures,
        filename_prefix=f"motion_{secrets.token_hex(4)}",
        folder_type=io.FolderType.temp,
        cls=None,  # without the workflow: a preview is not kept
        fps=fps,
        lossless=False,
        quality=_QUALITY,
        method=2,
    )
    return ui.SavedImages([file], is_animated=len(pictures) > 1)
