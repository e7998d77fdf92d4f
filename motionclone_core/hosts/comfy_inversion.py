"""DDIM inversion inside ComfyUI: through the guider, as a sampler runs, so that every wrapper of the MODEL counts.

Shapes used here:
    f   frames      c, h, w   channels, height and width of the latent
    z   a noisy latent of unit variance      x = z sqrt(1 + sigma^2)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor, nn

from ..inversion import Inversion, InversionOrigin, Level, digest, inversion_timesteps, inverted, levels_of
from .comfy_animatediff import AnimateDiffHost, collect_clones, settings_of
from .comfy_extraction import conditional_guider, require_channels
from .comfy_runtime import without_guidance
from .comfy_weights import as_filed
from .hashing import add, hashed, sampled


def clean_latent(patcher: Any, latent: Tensor) -> Tensor:
    """z_0 of a latent as nodes hand it on, in the model's scale, float32, on the CPU, ``[f, c, h, w]``."""
    return patcher.model.process_latent_in(latent.to(torch.float32)).detach().cpu().clone()


def timesteps_at(patcher: Any, sigmas: Tensor) -> list[int]:
    """The timesteps of noise levels, those without noise left out.

    Raises:
        ValueError: none has noise.
    """
    noisy = sigmas[sigmas > 0]
    if not len(noisy):
        raise ValueError(f"none of the {len(sigmas)} sigmas is above 0: connect those of MotionClone Scheduler")
    found = patcher.get_model_object("model_sampling").timestep(noisy)
    return [round(float(timestep)) for timestep in found]


def invert(
    patcher: Any, *, latent: Tensor, conditioning: Any, steps: int, keep: Collection[int], seed: int = 0
) -> dict[int, Tensor]:
    """The noisy latents that a clip would be sampled from, without guidance of any kind.

    Args:
        patcher: MODEL with AnimateDiff; guidance on it is ignored, everything else of it counts.
        latent: clean latents as nodes hand them on, ``[f, c, h, w]``.
        conditioning: the reference's own prompt.
        steps: see `inversion.inversion_timesteps`.
        keep: the timesteps to keep, of the inversion's own; it ends at the last of them.
        seed: of the run, for patches that ask for one.

    Returns:
        z of the kept levels in the model's scale, float32, on the CPU, by timestep, rising.

    Raises:
        UnsupportedModelError: the MODEL carries no AnimateDiff.
        RepresentationMismatchError: more frames than the motion module takes, other latents than the model's, or
            conditions that do not fit them.
        ValueError: the noise schedule has fewer levels than the inversion.
    """
    patcher = without_guidance(patcher)
    host = AnimateDiffHost(patcher)
    host.require_video(host.video(latent))
    require_channels(patcher, latent)
    levels = [level for level in _levels(patcher, steps) if level.timestep <= max(keep)]
    guider = conditional_guider(patcher, conditioning, len(latent))
    kept: dict[int, Tensor] = {}
    sampler = comfy.samplers.KSAMPLER(partial(_ascend, levels, frozenset(keep), kept))
    sigmas = torch.tensor([0.0, *(level.sigma for level in levels)])
    collect_clones(patcher)
    guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, disable_pbar=True, seed=seed)
    return kept


def _levels(patcher: Any, steps: int) -> list[Level]:
    timesteps = inversion_timesteps(steps)
    sigmas = patcher.get_model_object("model_sampling").sigma(torch.tensor(timesteps, dtype=torch.float32))
    return levels_of(timesteps, sigmas.tolist())


def _ascend(
    levels: Sequence[Level],
    keep: Collection[int],
    kept: dict[int, Tensor],
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callable[[dict], None] | None = None,
    **_: object,
) -> Tensor:
    """A sampler of ComfyUI's, run backwards."""
    progress = comfy.utils.ProgressBar(len(levels))

    def noise_in(z: Tensor, level: Level) -> Tensor:
        throw_exception_if_processing_interrupted()
        seen = z * math.sqrt(1 + level.sigma**2)
        return (seen - model(seen, level.sigma * seen.new_ones([len(seen)]), **extra_args)) / level.sigma

    # The sampler is handed the clean latent under noise, which other packs may have made.
    clean = model.latent_image.to(x)
    for step, (level, z) in enumerate(inverted(clean, levels, noise_in)):
        if level.timestep in keep:
            kept[level.timestep] = z.detach().to("cpu", torch.float32).clone()
        progress.update(1)
        if callback is not None:
            # AnimateDiff-Evolved counts the steps by it.
            callback({"i": step, "denoised": z, "x": z, "sigma": sigmas[step], "sigma_hat": sigmas[step]})
    return clean


def noisy_latents(
    patcher: Any, latent: Tensor, inversion: Inversion | None, *, t_alpha: int, every_level: bool
) -> dict[int, Tensor | None]:
    """What a motion is to be read at: timesteps, and the inverted latent there, None if it is to be noised.

    Args:
        patcher: MODEL that reads it.
        latent: the reference's clean latents as nodes hand them on, ``[f, c, h, w]``.
        inversion: of the same, if there is one.
        t_alpha: timestep of a single reading; of an inversion it is the kept one nearest to it.
        every_level: read at all that are kept.

    Raises:
        InversionMismatchError: the inversion is of another clip, size or model.
        ValueError: every level of none.
    """
    if inversion is None:
        if every_level:
            raise ValueError("every_level needs an inversion: connect Invert Reference (DDIM), or switch it off")
        return {t_alpha: None}
    clean = clean_latent(patcher, latent)
    inversion.require_clip(clean, digest(clean))
    inversion.require_model(fingerprint_of(patcher))
    timesteps = inversion.timesteps if every_level else (inversion.level_at(t_alpha),)
    return {timestep: inversion.latents[timestep] for timestep in timesteps}


# --- fingerprints -----------------------------------------------------------------------------------------


def origin_of(patcher: Any, *, clean: Tensor, conditioning: Any, steps: int) -> InversionOrigin:
    """What an inversion of a clip would be made of; ``clean`` as `clean_latent` gives it."""
    return InversionOrigin(digest(clean), fingerprint_of(patcher), hashed(conditioning), steps)


def fingerprint_of(patcher: Any) -> str:
    """Of a MODEL's weights before patches, of all patches, of its noise schedule, and of AnimateDiff's settings.

    It is the same whether or not the weights are loaded and patched just now.
    """
    bare = without_guidance(patcher)
    collect_clones(bare)
    foreign = {type(module) for module in AnimateDiffHost(bare).motion_modules}
    weights = [_of_weights(bare, bare.model.diffusion_model, "diffusion_model", foreign)]
    weights += [_of_weights(one, one.model, "", set()) for one in bare.get_additional_models_with_key("ADE")]
    sigmas = bare.get_model_object("model_sampling").sigmas
    return hashed([*weights, sigmas, settings_of(bare), *_functions_of(bare.model_options)])


def _functions_of(model_options: Mapping[str, Any]) -> list[Any]:
    """What other nodes have put into a MODEL to run beside its network."""
    inner = model_options.get("transformer_options", {})
    names = ("model_function_wrapper", "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
    return [*(inner.get(name) for name in ("patches", "patches_replace")), *(model_options.get(name) for name in names)]


def _of_weights(patcher: Any, network: nn.Module, name: str, foreign: Collection[type]) -> str:
    found = hashlib.sha256()
    for key, weight in _weights(network, name, foreign):
        weight = as_filed(patcher, key, weight)
        add(found, [key, sampled(weight), patcher.patches.get(key)])
    return found.hexdigest()


def _weights(module: nn.Module, name: str, foreign: Collection[type]) -> Iterator[tuple[str, Tensor]]:
    """A network's weights by the names that they have without the motion modules that lie in it during a run."""
    yield from ((f"{name}.{key}".lstrip("."), weight) for key, weight in module.named_parameters(recurse=False))
    children = [(key, child) for key, child in list(module._modules.items()) if type(child) not in foreign]
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        children = [(str(place), child) for place, (_, child) in enumerate(children)]
    for key, child in children:
        if child is not None:
            yield from _weights(child, f"{name}.{key}".lstrip("."), foreign)
