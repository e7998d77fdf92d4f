"""Probes of inversions, and of motions read at several noise levels."""

from __future__ import annotations

from .files import CATEGORY

SCALE = 0.18215  # of SD 1.5's latents


class ProbeInverted:
    """One latent of an inversion as a LATENT, times a factor; timestep -1 is the clean one."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        timestep = ("INT", {"default": 0, "min": -1, "max": 999})
        factor = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1e6, "step": 1e-9})
        return {"required": {"inversion": ("INVERSION",), "timestep": timestep, "factor": factor}}

    def execute(self, inversion, timestep, factor):
        found = inversion.clean if timestep < 0 else inversion.latents[timestep]
        return ({"samples": found * (factor / SCALE)},)


class ProbeReading:
    """The reading of a motion that is nearest to a timestep, by itself."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("MOTION_REP",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"motion_rep": ("MOTION_REP",), "timestep": ("INT", {"default": 0, "min": 0, "max": 999})}}

    def execute(self, motion_rep, timestep):
        return (motion_rep.at(timestep),)


class ProbeInversion:
    """Stands for an inversion where nothing may look into it."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "execute", ("INVERSION",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def execute(self):
        return ("an inversion",)


PROBES = (ProbeInverted, ProbeReading, ProbeInversion)
