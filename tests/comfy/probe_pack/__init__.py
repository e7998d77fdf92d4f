"""Nodes that only the tests use: inputs that need no file, outputs a test can read, faults on request."""

from __future__ import annotations

import logging
import time

import torch
from comfy.model_management import throw_exception_if_processing_interrupted

from . import guidance, inversion, memory, models, semantics, transformers
from .files import CATEGORY, save_tensors


class ProbeClip:
    """A bright square that moves over a fixed random background: IMAGE (frames, height, width, 3)."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "frames": ("INT", {"default": 8, "min": 1, "max": 512}),
                "width": ("INT", {"default": 128, "min": 8, "max": 2048}),
                "height": ("INT", {"default": 128, "min": 8, "max": 2048}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32}),
            }
        }

    def execute(self, frames, width, height, seed):
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        images = smooth[0].movedim(0, -1).expand(frames, -1, -1, -1).clone()
        side = max(1, min(width, height) // 4)
        for index in range(frames):
            left = (width - side) * index // max(1, frames - 1)
            images[index, side : 2 * side, left : left + side] = torch.tensor([1.0, 0.9, 0.1])
        return (images,)


class ProbeSave:
    """Writes a LATENT or IMAGE as float32 safetensors (key ``value``), at full precision."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"name": ("STRING", {"default": "probe"})},
            "optional": {"latent": ("LATENT",), "image": ("IMAGE",)},
        }

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, name, latent=None, image=None):
        return save_tensors(name, value=latent["samples"] if latent is not None else image)


class ProbeFail:
    """Raises while it runs."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"message": ("STRING", {"default": "asked to fail"})}}

    def execute(self, message):
        raise ValueError(message)


class ProbeWait:
    """Runs until it is interrupted, for ``seconds`` at most. Logs "probe waits" when it begins."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 60.0, "min": 0.0, "max": 3600.0})}}

    def execute(self, seconds):
        logging.info("probe waits")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            throw_exception_if_processing_interrupted()
            time.sleep(0.05)
        return {"ui": {"text": ["waited to the end"]}}


ROOMS = (guidance, inversion, memory, models, semantics, transformers)
PROBES = (ProbeClip, ProbeSave, ProbeFail, ProbeWait, *(probe for room in ROOMS for probe in room.PROBES))
NODE_CLASS_MAPPINGS = {f"MotionClone{probe.__name__}": probe for probe in PROBES}
