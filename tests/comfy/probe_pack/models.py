"""Probes of other image models: what a text encoder and a VAE would give them, of random numbers."""

from __future__ import annotations

import torch

from .files import CATEGORY, save_tensors


class ProbeText:
    """A CONDITIONING of SDXL's shapes."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": 2**32})}}

    def execute(self, seed):
        generator = torch.Generator().manual_seed(seed)
        tokens, pooled = (torch.randn(*shape, generator=generator) for shape in ((1, 77, 2048), (1, 1280)))
        return ([[tokens, {"pooled_output": pooled}]],)


class ProbeLatent:
    """A LATENT that drifts from one random picture to another."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        size = ("INT", {"default": 64, "min": 8, "max": 2048})
        return {"required": {"frames": ("INT", {"default": 4, "min": 1, "max": 512}), "width": size, "height": size}}

    def execute(self, frames, width, height):
        ends = 5 * torch.randn(2, 1, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(17))
        part = torch.linspace(0, 1, frames).reshape(-1, 1, 1, 1)
        return ({"samples": ends[0] * (1 - part) + ends[1] * part},)


class ProbeAttention:
    """Saves the attention of a representation's first tap, of which every entry was kept: [p, n, f, f]."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = CATEGORY, "execute", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {"default": "attention"}), "motion_rep": ("MOTION_REP",)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")  # always runs: ComfyUI 0.8 leaves what a cached node reported out of its answer

    def execute(self, name, motion_rep):
        tap = next(iter(motion_rep.taps.values()))
        whole = torch.zeros_like(tap.values, dtype=torch.float32)
        return save_tensors(name, value=whole.scatter(-1, tap.indices.long(), tap.values.float()))


PROBES = (ProbeText, ProbeLatent, ProbeAttention)
