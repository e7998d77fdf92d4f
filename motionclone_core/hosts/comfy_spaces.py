"""Which latent a sampler holds at a noise level, and what that means for a gradient and for a timestep.

Guidance is written for ``x = z_0 + sigma * eps`` (k-diffusion) and for ``x = (1 - sigma) z_0 + sigma * eps`` (flow
matching): in both a step from sigma to sigma' keeps ``sigma' / sigma`` of the noise, and `updates.corrected_denoised`
holds to the letter. ComfyUI's CogVideoX is handed what its sampler holds as it is, so that this must be
``z = (z_0 + sigma * eps) / sqrt(1 + sigma^2)``, which one sampler alone (VOIDSampler) keeps to.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

_FLOW_TIMESTEPS = 1000


def holds_scaled(patcher: Any) -> bool:
    """Whether the network takes the sampler's latent as it is, which then is z, with a variance of 1."""
    # ComfyUI before it had CogVideoX has no such class.
    raw = getattr(comfy.model_sampling, "V_PREDICTION_DDPM", None)
    return raw is not None and isinstance(patcher.get_model_object("model_sampling"), raw)


def is_flow(patcher: Any) -> bool:
    """Whether noise levels lie in 0 to 1 and mix latent and noise (flow matching)."""
    return isinstance(patcher.get_model_object("model_sampling"), comfy.model_sampling.CONST)


def take_ordinary_samplers(clone: Any) -> None:
    """Have a clone whose network takes z be sampled rightly by every k-diffusion sampler; others stay as they are.

    The noise schedule and what the network predicts stay too. A clone of a clone would not do: if both are collected
    at once, ComfyUI has lost whose network is loaded.
    """
    if not holds_scaled(clone):
        return
    old = clone.get_model_object("model_sampling")

    class VelocityOfDiscrete(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    sampling = VelocityOfDiscrete(clone.model.model_config, zsnr=getattr(old, "zsnr", None))
    sampling.set_sigmas(old.sigmas)
    clone.add_object_patch("model_sampling", sampling)


def by_sigma_space(gradient: Tensor, sigma: float, *, scaled: bool) -> Tensor:
    """A gradient by the sampler's latent as one by x = z * sqrt(1 + sigma^2), if the sampler holds z."""
    return gradient / math.sqrt(1.0 + sigma**2) if scaled else gradient


def sigma_at(patcher: Any, timestep: float) -> Tensor:
    """The noise level at which the network is told ``timestep``, 0 to 999; a scalar."""
    sampling = patcher.get_model_object("model_sampling")
    if not is_flow(patcher):
        return sampling.sigma(torch.tensor(float(timestep)))
    # A shifted schedule visits other levels; what the network is told is its level in thousandths all the same.
    smallest = float(sampling.sigmas[0])
    return torch.tensor(max(float(timestep) / _FLOW_TIMESTEPS, smallest))


def sigmas_at(patcher: Any, timesteps: list[int]) -> Tensor:
    """The noise levels of places 0 to 999 in the model's schedule, in which a flow's shift counts."""
    sampling = patcher.get_model_object("model_sampling")
    if is_flow(patcher):
        places = torch.tensor(timesteps) * len(sampling.sigmas) // _FLOW_TIMESTEPS
        return sampling.sigmas[places].detach().cpu().float()
    return sampling.sigma(torch.tensor(timesteps, dtype=torch.float32)).detach().cpu()
