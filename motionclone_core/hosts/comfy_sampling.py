"""Sampling through ComfyUI: schedules in sigmas, the samplers that guidance fits, and the call itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ..schedule import TRAIN_TIMESTEPS, Preset, sigma_at, uneven_timesteps
from .comfy_animatediff import own_schedule
from .comfy_spaces import sigmas_at, take_ordinary_samplers

log = logging.getLogger(__name__)

SCHEDULER = "motionclone"
_EXACT = ("euler", "ddim")
# Those that follow a motion as Euler does: docs/SAMPLERS.md, by scripts/sampler_study.py. Left out are dpm_2 and
# dpm_2_ancestral, which do not, and dpm_fast and dpm_adaptive, which do not keep to the steps of the schedule.
FITTING_SAMPLERS = (
    *_EXACT,
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "lms",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "uni_pc",
    "uni_pc_bh2",
)
_SCALED = "VOID_DDIM"
_SCHEDULE_TOLERANCE = 0.02
_ANIMATEDIFF = "sqrt_linear (AnimateDiff)"


def require_sampler(sampler: Any, *, scaled: bool = False) -> None:
    """Refuse a sampler that motion guidance is wrong for, or that was never tried with it.

    Args:
        sampler: a ``comfy.samplers.KSAMPLER``, or another pack's sampler object.
        scaled: whether the model takes the sampler's latent as it is (see `comfy_spaces.holds_scaled`).

    Raises:
        ValueError: it is not among `FITTING_SAMPLERS`, or does not fit the model; the message names those that do.
    """
    name = _name_of(sampler)
    if scaled != (name == _SCALED):
        raise ValueError(
            "ComfyUI's CogVideoX takes latents of variance 1, which of its samplers VOIDSampler alone keeps to: use "
            "MotionClone Guided KSampler, or SamplerCustom with VOIDSampler, or put ModelSamplingDiscrete "
            "(v_prediction, zsnr on) before an ordinary sampler"
            if scaled
            else "VOIDSampler keeps latents of variance 1, and this MODEL is sampled in the ordinary way: choose euler"
        )
    if scaled:
        return
    if name not in FITTING_SAMPLERS:
        others = ", ".join(sampler for sampler in FITTING_SAMPLERS if sampler not in _EXACT)
        raise ValueError(
            f"motion guidance does not fit the sampler {name.removesuffix('_function')}: choose "
            f"{' or '.join(_EXACT)}, for which it is exact, or one of {others}"
        )


def require_uncached(options: Mapping[str, Any], guided: Sequence[float]) -> None:
    """Check that ComfyUI's EasyCache or LazyCache leaves out no guided step, in which the model has to run.

    Args:
        options: a run's transformer options.
        guided: sigmas of the guided steps, falling.

    Raises:
        ValueError: it may leave one out; the message says from which sigma on it does, and the last guided one.
    """
    cache = options.get("easycache")
    if cache is not None and any(cache.end_t < sigma <= cache.start_t for sigma in guided):
        raise ValueError(
            f"{cache.name} leaves out steps from sigma {cache.start_t:.4g} on, and steps are guided down to sigma "
            f"{guided[-1]:.4g}: raise its start_percent (now {cache.start_percent:g}) until it begins after the guided "
            f"steps, guide fewer of them, or take {cache.name} out"
        )


def is_exact(sampler: Any) -> bool:
    """Whether motion guidance is exact under a sampler; see `require_sampler` for what it may be."""
    return _name_of(sampler) in (*_EXACT, _SCALED)


def _name_of(sampler: Any) -> str:
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", type(sampler).__name__)
    return name.removeprefix("sample_").removesuffix("_gpu").replace("unipc", "uni_pc")


def require_falling(sigmas: Tensor) -> None:
    """Check that noise levels fall all the way, to 0 at the end at the earliest.

    Raises:
        ValueError: they do not; the message says where.
    """
    levels = [float(sigma) for sigma in sigmas]
    for i, (now, following) in enumerate(pairwise(levels)):
        if not now > following:
            raise ValueError(
                f"motion guidance needs noise levels that fall at every step, but sigma {i} is {now:.4g} and "
                f"sigma {i + 1} is {following:.4g}: connect a scheduler whose sigmas fall"
            )


def uneven_sigmas(
    patcher: Any, *, steps: int, guided_steps: int, ratio: float | None, denoise: float = 1.0
) -> Tensor:
    """The uneven timesteps as sigmas.

    Args:
        patcher: MODEL, whose noise schedule turns timesteps into sigmas.
        steps: N.
        guided_steps: G, the first of them.
        ratio: the part of the noise schedule that the guided steps share; None spreads all steps evenly.
        denoise: below 1 all N steps, the guided ones first, share this part of the schedule.

    Returns:
        ``steps + 1`` sigmas, falling to 0.

    Raises:
        ValueError: see `schedule.uneven_timesteps`; denoise is not above 0 and at most 1; or the noise schedule, such
            as one for LCM, has one level for several of the timesteps.
    """
    if not 0.0 < denoise <= 1.0:
        raise ValueError(f"denoise is {denoise}: it must be above 0 and at most 1")
    available = max(1, int(TRAIN_TIMESTEPS * denoise))
    timesteps = uneven_timesteps(steps, guided_steps, ratio, timesteps=available)
    sampling = patcher.get_model_object("model_sampling")
    sigmas = sigmas_at(patcher, timesteps)
    if not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(
            f"this MODEL's noise schedule tells {len(sampling.sigmas)} levels apart, too few for {steps} steps at a "
            f"ratio of {ratio}: use fewer steps, as the beta_schedules for LCM are made for, or ComfyUI's schedulers"
        )
    if own_schedule(patcher) in (None, _ANIMATEDIFF) and _is_unet(patcher):
        _warn_about_noise_schedule(sampling)
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def scheduler_sigmas(
    patcher: Any, *, scheduler: str, sampler: str, steps: int, denoise: float = 1.0
) -> Tensor:
    """Sigmas of one of ComfyUI's own schedulers, as its KSampler lays them out for ``sampler``."""
    return comfy.samplers.KSampler(
        patcher,
        steps=steps,
        device=patcher.load_device,
        sampler=sampler,
        scheduler=scheduler,
        denoise=denoise,
    ).sigmas


def sigmas_for(patcher: Any, *, scheduler: str, sampler: str, preset: Preset, denoise: float) -> Tensor:
    """Sigmas of a setting under any scheduler, ComfyUI's or `SCHEDULER`."""
    if scheduler == SCHEDULER:
        return uneven_sigmas(
            patcher, steps=preset.steps, guided_steps=preset.guided_steps, ratio=preset.ratio, denoise=denoise
        )
    return scheduler_sigmas(
        patcher, scheduler=scheduler, sampler=sampler, steps=preset.steps, denoise=denoise
    )


def sample(
    patcher: Any,
    *,
    sampler: str,
    sigmas: Tensor,
    cfg: float,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Run a sampler as ComfyUI's KSampler does, with previews, progress and noise masks.

    Args:
        patcher: a clone of the caller's own; where its network takes z, it is given ordinary samplers.

    Returns:
        The latent, as ComfyUI's nodes hand it on.
    """
    take_ordinary_samplers(patcher)
    samples = comfy.sample.fix_empty_latent_channels(patcher, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    result = comfy.sample.sample_custom(
        patcher,
        noise,
        cfg,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(patcher, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent, "samples": result}


def _is_unet(patcher: Any) -> bool:
    """Whether it is of the kind that AnimateDiff is for."""
    return isinstance(patcher.get_model_object("diffusion_model"), UNetModel)


def _warn_about_noise_schedule(sampling: Any) -> None:
    expected = sigma_at(TRAIN_TIMESTEPS - 1)
    found = float(sampling.sigma_max)
    if abs(found - expected) > _SCHEDULE_TOLERANCE * expected:
        log.warning(
            "the model's largest sigma is %.2f, AnimateDiff's noise schedule has %.2f: choose beta_schedule "
            "'%s' in the AnimateDiff loader",
            found,
            expected,
            _ANIMATEDIFF,
        )
