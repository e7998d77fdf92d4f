"""What the probes share: their category, a form of node, clones, and files that a test can read."""

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


def cloned(model):
    """A clone of a MODEL that is not held to have put into the network what the MODEL has put there.

    ComfyUI copies that, and takes the modules out when the clone is collected: if the run of it fails, during a later
    one.
    """
    clone = model.clone()
    clone.is_injected = False
    return clone


def save_tensors(name, **tensors):
    """Writes float32 safetensors into the output folder and returns what ComfyUI is to report of it."""
    filename = f"{os.path.basename(name)}.safetensors"
    path = os.path.join(folder_paths.get_output_directory(), filename)
    content = {key: tensor.detach().cpu().float().contiguous() for key, tensor in tensors.items()}
    safetensors.torch.save_file(content, path)
    return {"ui": {"files": [{"filename": filename, "subfolder": "", "type": "output"}]}}
