"""Running an observer once inside ComfyUI: what an extraction needs.

Shapes used here:
    f   frames      c, h, w   channels, height and width of the latent; of a transformer ``[1, c, f, h, w]``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.samplers
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..grids import RepresentationMismatchError
from ..representation import Window
from .autograd import eager
from .base import AttentionObserver, StopForward, UnsupportedModelError
from .comfy_animatediff import collect_clones
from .comfy_controls import require_controls, require_no_references
from .comfy_crossattention import word_layers
from .comfy_host import Host, host_of, require_image_model
from .comfy_runtime import without_guidance
from .comfy_spaces import sigma_at, take_ordinary_samplers
from .crossattention import attending

_KEY = "motionclone_extraction"
_ONE_CONDITION = "read it under one conditioning, not under several or an area"


def run_once(
    patcher: Any,
    observer_of: Callable[..., AttentionObserver],
    *,
    latent: Tensor,
    noise: Tensor,
    timestep: float,
    conditioning: Any,
    seed: int,
    inverted: Tensor | None = None,
    tokens: Sequence[int] = (),
    attend: Callable[[Tensor], None] | None = None,
) -> None:
    """Noise a latent to ``timestep`` and run the model on it once, conditional only.

    Under context windows it is run once for each window that there is at any step of a run.

    Args:
        patcher: MODEL that a host knows; guidance on it is ignored, everything else of it counts.
        observer_of: gives the observer of the call whose attention sees these windows; it may end the call with
            `StopForward`.
        latent: clean latents as nodes hand them on, of one video.
        noise: same shape; ComfyUI scales it to the timestep's sigma.
        timestep: 0 to 999.
        conditioning: what the pass is conditioned on.
        seed: of the run, for patches that ask for one.
        inverted: what the model sees in place of the noised latent, in its own scale and of unit variance, same shape.
        tokens: of the conditioning's prompt, whose cross-attention is read too.
        attend: receives it, averaged over tokens, layers and heads, ``[f, p]``.

    Raises:
        UnsupportedModelError: no host knows the MODEL, or its motion module is off at the timestep; or words are to be
            read in windows, or of a transformer.
        RepresentationMismatchError: more frames than the motion module takes, or conditions that do not fit them.
    """
    patcher = without_guidance(patcher)
    take_ordinary_samplers(patcher)
    host = host_of(patcher)
    video = host.video(latent)
    host.require_video(video)
    require_channels(patcher, latent)
    words = _Words(tuple(tokens), attend)
    if words.tokens:
        require_image_model(host, "reading words of the reference")
    if words.tokens and host.slides(video.frames):
        raise UnsupportedModelError(
            "words of the reference are read in a clip that the model sees whole: take Context Options away, or give "
            "Semantic Guidance a reference_mask in place of words"
        )
    patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, _KEY, _observed_call(host, observer_of, latent.shape, words))
    guider = conditional_guider(patcher, conditioning, video.frames)
    sigmas = torch.stack([sigma_at(patcher, timestep).detach().cpu(), torch.zeros(())])
    sampler = comfy.samplers.KSAMPLER(partial(_call_model, host.turns(video.frames), inverted))
    collect_clones(patcher)
    guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=seed)


def require_channels(patcher: Any, latent: Tensor) -> None:
    """Check that latents are of the model's own kind.

    Raises:
        RepresentationMismatchError: they have another number of channels; the message says both.
    """
    found, needed = latent.shape[1], patcher.model.latent_format.latent_channels
    if found != needed:
        raise RepresentationMismatchError(
            f"the reference's latents have {found} channels, this model's have {needed}: encode the reference with the "
            f"model's own VAE"
        )


def conditional_guider(patcher: Any, conditioning: Any, frames: int) -> comfy.samplers.CFGGuider:
    """A guider of one conditional pass alone.

    Raises:
        RepresentationMismatchError: conditions that do not fit the frames.
    """
    guider = comfy.samplers.CFGGuider(patcher)
    guider.inner_set_conds({"positive": conditioning})
    require_controls(guider.original_conds.values(), frames)
    guider.set_cfg(1.0)
    return guider


@dataclass(frozen=True)
class _Words:
    """Whose cross-attention is read, and who receives it."""

    tokens: tuple[int, ...] = ()
    attend: Callable[[Tensor], None] | None = None


def _call_model(
    turns: Sequence[int],
    inverted: Tensor | None,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict,
    callback: Callable[[dict], None] | None = None,
    **_: object,
) -> Tensor:
    if inverted is not None:
        x = inverted.to(x) * (1 + sigmas[0].to(x) ** 2).sqrt()
    for turn in turns:
        if turn and callback is not None:
            # AnimateDiff-Evolved counts the steps by it, and places its windows by their number.
            callback({"i": turn - 1, "denoised": x, "x": x, "sigma": sigmas[0], "sigma_hat": sigmas[0]})
        model(x, sigmas[0] * x.new_ones([x.shape[0]]), **extra_args)
    return x


def _observed_call(
    host: Host, observer_of: Callable[..., AttentionObserver], latent_shape: torch.Size, words: _Words
) -> Callable[..., Tensor]:
    read: set[tuple[Window, ...]] = set()

    def wrapper(
        executor: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        require_no_references(transformer_options)
        _require_one_condition(transformer_options)
        window = host.window(transformer_options, x)
        views = host.views(window)
        if views in read:
            return torch.zeros_like(x)
        _require_whole(x, (len(window), *latent_shape[1:]) if len(latent_shape) == 4 else latent_shape)
        observer = observer_of(*views)
        _require_running(host, observer.taps)
        layers = word_layers(executor.class_obj.diffusion_model) if words.tokens else ()
        options = dict(transformer_options)
        check = throw_exception_if_processing_interrupted
        with (
            eager(),
            attending(layers, words.tokens, words.attend),
            host.observing(observer, check, x=x, transformer_options=options),
        ):
            try:
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            except StopForward:
                # The observer has all it needs; nobody reads this prediction.
                read.add(views)
                return torch.zeros_like(x)

    return wrapper


def _require_one_condition(transformer_options: dict[str, Any]) -> None:
    count = len(transformer_options.get("cond_or_uncond", ()))
    if count > 1:
        raise ValueError(f"the reference is given {count} conditionings at once: {_ONE_CONDITION}")


def _require_whole(x: Tensor, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(
            f"the reference has shape {list(shape)}, the model is asked for {list(x.shape)}: "
            f"{_ONE_CONDITION}"
        )


def _require_running(host: Host, taps: Sequence[str]) -> None:
    off = host.off(taps)
    if off:
        where = "" if len(off) == len(taps) else f" in {', '.join(off)}"
        raise UnsupportedModelError(
            f"the motion module {host.name} is off{where} at t_alpha, outside its start and end percent or by an "
            f"effect of 0, so there is no attention to read: choose a t_alpha or blocks where it is on, or extract "
            f"with a MODEL in which it is"
        )
