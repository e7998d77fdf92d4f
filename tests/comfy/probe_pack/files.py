"""What the probes share: their category, a form of node, and files that a test can read."""

from __future__ import annotations

import os

import folder_paths
import safetensors.torch

CATEGORY = "MotionClone/probes"


class ModelProbe:
    """A node that patches a MODEL."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}


def save_tensors(name, **tensors):
    """Writes float32 safetensors into the output folder and returns what ComfyUI is to report of it."""
    filename = f"{os.path.basename(name)}.safetensors"
    path = os.path.join(folder_paths.get_output_directory(), filename)
    content = {key: tensor.detach().cpu().float().contiguous() for key, tensor in tensors.items()}
    safetensors.torch.save_file(content, path)
    return {"ui": {"files": [{"filename": filename, "subfolder": "", "type": "output"}]}}
