"""Guiding a run inside ComfyUI: keyed wrappers on a clone of the MODEL.

One guided step, from the outside in:

    PREDICT_NOISE    finds the step's strength; at the end fuses the gradients and corrects ``denoised``
    CALC_COND_BATCH  runs the conditional pass alone, then the others; once for every context window
    APPLY_MODEL      records one model call up to the last tap; ControlNets have already run by then

Everything that changes lives in a `_Run`, which `OUTER_SAMPLE` puts into the run's own copy of the model
options. Wrappers hold nothing, so a MODEL can be queued, cloned and cached like any other.

Shapes used here:
    f   frames      c, h, w   channels, height and width of the latent
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..grids import Crop, Size
from ..representation import Window
from ..schedule import beside_a_seam
from .base import Guide, UnsupportedModelError, View
from .comfy_animatediff import collect_clones, mend_clone
from .comfy_appearance import AppearanceBranch, require_whole
from .comfy_conditions import index_of, predicted_apart
from .comfy_controls import forget_batches, require_controls
from .comfy_host import Host, host_of, require_image_model
from .comfy_memory import MemoryMode
from .comfy_recording import CallRecorder, ModelCall
from .comfy_sampling import is_exact, require_falling, require_sampler, require_uncached
from .comfy_spaces import by_sigma_space
from .gradients import SharedGradient

log = logging.getLogger(__name__)

_KEY = "motionclone"
_SIGMA_TOLERANCE = 1e-4
_NO_NUMBERS = "the model gives values that are not numbers (a damaged file, or an overflow that --force-fp32 avoids)"
_OFF = (
    "the motion module {} is off in guided blocks, outside its start and end percent or by an effect of 0: guide fewer "
    "steps, or leave it on while they last"
)


class GuidanceError(ValueError):
    """Motion guidance cannot run in this graph; the message says what to change."""


@dataclass
class _Step:
    """One guided step while it runs."""

    index: int
    total: int
    sigma: float
    sigma_from: float
    sigma_next: float
    positive: frozenset[Any] = frozenset()
    predicted: set[Window] = field(default_factory=set)
    model_options: dict[str, Any] = field(default_factory=dict)
    crops: dict[Any, Crop] = field(default_factory=dict)
    latent_size: Size = (0, 0)
    calls: dict[tuple[Window, Any], Tensor] = field(default_factory=dict)
    energies: list[float] = field(default_factory=list)


@dataclass
class _Run:
    """One sampling run: made by OUTER_SAMPLE, gone when it returns.

    ``exact`` says that the sampler is one for which guidance is; the others are not guided beside a seam.
    """

    guide: Guide
    host: Host
    recorder: CallRecorder
    shared: SharedGradient
    branch: AppearanceBranch
    exact: bool = True
    total: int = 0
    step: _Step | None = None
    in_guided_pass: bool = False
    energies: dict[int, float] = field(default_factory=dict)
    guided: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    off: set[int] = field(default_factory=set)

    def begin(self, timestep: Tensor, sigmas: Tensor) -> _Step | None:
        """The step that ``timestep`` (a sigma, for every frame) lies in, or None if it is not guided."""
        sigma = float(timestep.flatten()[0])
        index = _step_index(sigmas, sigma)
        total = len(sigmas) - 1
        sigma_from, sigma_next = sigmas[index : index + 2].tolist()
        if not self.guide.guides(index, total, sigma_next=sigma_next):
            return None
        if not self.exact and beside_a_seam(sigmas.tolist(), index):
            return None
        return _Step(index, total, sigma, sigma_from, sigma_next)

    @contextmanager
    def guiding(self) -> Iterator[None]:
        """While the model is called whose gradient is taken."""
        self.in_guided_pass = True
        try:
            yield
        finally:
            self.in_guided_pass = False


@dataclass(frozen=True)
class RunSummary:
    """What guidance did in a run.

    Attributes:
        guided: the steps that were guided, counted from 0, in order.
        skipped: how many went unguided because their gradient or push was not finite.
        off: how many went unguided because the motion module was off.
        energies: the energy by step, counted from 0, where it was read.
        total: steps of the run, guided or not.
        saving: whether guided steps saved memory at the end.
        model: what it was recognised as.
        foreground: which part of the unguided video's frames the new words covered at the end; None without words.
    """

    guided: tuple[int, ...]
    skipped: int
    off: int
    energies: Mapping[int, float]
    total: int
    saving: bool
    model: str
    foreground: float | None = None

    def __str__(self) -> str:
        parts = [f"guided steps: {len(self.guided)}"]
        energies = [energy for energy in self.energies.values() if math.isfinite(energy)]
        if self.skipped:
            parts.append(f"left unguided, as their gradient or push was not finite: {self.skipped}")
        if self.off:
            parts.append(f"left unguided, as the motion module was off: {self.off}")
        if energies:
            parts.append(f"energy: {energies[0]:.4g} -> {energies[-1]:.4g}")
        if self.foreground is not None:
            parts.append(f"the new words cover {self.foreground:.0%} of the unguided video")
        return ", ".join([*parts, f"memory: {'memory' if self.saving else 'speed'}", f"model: {self.model}"])


def with_guidance(
    patcher: Any,
    guide: Guide,
    *,
    memory: MemoryMode = "auto",
    on_end: Callable[[RunSummary], None] | None = None,
) -> Any:
    """A clone of the MODEL that any sampler node guides by ``guide``.

    Args:
        patcher: MODEL that a host knows.
        guide: the guidance.
        memory: see `comfy_memory.MemoryPlan`.
        on_end: told after every run what guidance did.

    Raises:
        UnsupportedModelError: no host knows the MODEL.
        GuidanceError: it is guided already.
    """
    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, _KEY):
        raise GuidanceError(
            "this MODEL is guided by a motion representation already: connect the MODEL from before "
            "Apply Motion Guidance"
        )
    host_of(patcher)
    guided = _with_resident_weights(patcher)
    mend_clone(patcher, guided)
    guided.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, _KEY, _outer_sample(guide, memory, on_end))
    for wrapper_type, wrapper in _WRAPPERS.items():
        guided.add_wrapper_with_key(wrapper_type, _KEY, wrapper)
    return guided


def without_guidance(patcher: Any) -> Any:
    """A clone of the MODEL with no motion guidance on it."""
    bare = patcher.clone()
    mend_clone(patcher, bare)
    for wrapper_type in (WrappersMP.OUTER_SAMPLE, *_WRAPPERS):
        bare.remove_wrappers_with_key(wrapper_type, _KEY)
    return bare


def _with_resident_weights(patcher: Any) -> Any:
    """A clone whose weights stay in place from the forward to the backward pass."""
    # ComfyUI before 0.9 has no dynamic weights, and no is_dynamic.
    if not getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.clone()
    try:
        return patcher.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise GuidanceError(
            f"this MODEL's weights come and go while it runs, and its loader gives no other way ({error}): "
            f"load it with Load Checkpoint, or start ComfyUI with --disable-dynamic-vram"
        ) from error


def _outer_sample(
    guide: Guide, memory: MemoryMode, on_end: Callable[[RunSummary], None] | None
) -> Callable[..., Tensor]:
    def wrapper(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        collect_clones(guider.model_patcher)
        host = host_of(guider.model_patcher)
        video = host.video(noise)
        host.require_video(video)
        guide.require(host.identity, video)
        require_controls(guider.conds.values(), video.frames)
        recorder = CallRecorder(host, guide, memory, _raise_if_cancelled)
        branch = AppearanceBranch(guide, host, _raise_if_cancelled)
        run = _Run(guide, host, recorder, SharedGradient(guide.reuse, flow=host.flow), branch)
        options = guider.model_options.setdefault("transformer_options", {})
        options[_KEY] = run
        try:
            return executor(noise, *args, **kwargs)
        finally:
            options.pop(_KEY, None)
            _report(run, on_end)

    return wrapper


def _sampler_sample(executor: Any, model: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    options = args[0]["model_options"]["transformer_options"]
    run: _Run = options[_KEY]
    run.total = total = len(sigmas) - 1
    steps = enumerate(pairwise(sigmas.tolist()))
    guided = [sigma for step, (sigma, after) in steps if run.guide.guides(step, total, sigma_next=after)]
    if not guided:
        log.warning(
            "motion guidance: none of the %d steps of this run is guided: the weight is 0, or the guided steps lie "
            "outside the run",
            total,
        )
    else:
        require_sampler(executor.class_obj, scaled=run.host.scaled)
        require_falling(sigmas)
        require_uncached(options, guided)
        run.exact = is_exact(executor.class_obj)
        if "multigpu_clones" in args[0]["model_options"]:
            raise GuidanceError("motion guidance runs on one GPU: take the multi-GPU node out of this graph")
        _require_comparable(run, model, noise=args[2], denoise_mask=args[4])
    return executor(model, sigmas, *args, **kwargs)


def _require_comparable(run: _Run, guider: Any, *, noise: Tensor, denoise_mask: Tensor | None) -> None:
    """Check that an unguided video can be sampled beside this one, if any step is held against it."""
    if any(run.guide.compares(step, run.total) for step in range(run.total)):
        require_image_model(run.host, "Semantic Guidance")
        require_whole(run.host, run.host.video(noise), guider.conds, denoise_mask)


def _predict_noise(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None = None
) -> Tensor:
    run: _Run = model_options["transformer_options"][_KEY]
    sigmas = model_options["transformer_options"]["sample_sigmas"]
    positive = frozenset(entry["uuid"] for entry in executor.class_obj.conds.get("positive", ()))

    def predict(x: Tensor, sigma: float) -> Tensor:
        return executor(x, torch.full_like(timestep, sigma), model_options, seed)

    run.branch.follow(_step_index(sigmas, float(timestep.flatten()[0])), sigmas, x, positive, predict)
    step = run.begin(timestep, sigmas)
    if step is None:
        return executor(x, timestep, model_options, seed)
    step.positive = positive
    return _guided(executor.class_obj, run, step, x, timestep, lambda: executor(x, timestep, model_options, seed))


def _guided(
    guider: Any, run: _Run, step: _Step, x: Tensor, timestep: Tensor, predict: Callable[[], Tensor]
) -> Tensor:
    """``denoised`` of a guided step, corrected."""
    gradient = run.shared.at(step.index, step.sigma)
    run.step = step if gradient is None else None
    try:
        denoised = predict()
    finally:
        run.step = None
    if run.host.off(run.guide.taps):
        log.warning("step %d goes unguided: %s", step.index, _OFF.format(run.host.name))
        run.off.add(step.index)
        return denoised
    if gradient is None:
        gradient = _own_gradient(guider, run, step, x, timestep)
    return denoised if gradient is None else _corrected(run, step, denoised, gradient)


def _own_gradient(guider: Any, run: _Run, step: _Step, x: Tensor, timestep: Tensor) -> Tensor | None:
    """The gradient that a step's model calls took; None if none of its conditions is on."""
    if not step.predicted:
        raise GuidanceError(
            "the sampler's guider made no conditional prediction that motion guidance could follow: use an "
            "ordinary CFG guider (KSampler, SamplerCustom, CFGGuider, BasicGuider)"
        )
    if not step.calls:
        return None
    gradient = by_sigma_space(_fused(guider, run.host, step, x, timestep), step.sigma, scaled=run.host.scaled)
    run.shared.keep(gradient, step.index, step.sigma)
    run.energies[step.index] = sum(step.energies) / len(step.energies)
    log.debug("step %d: energy %.6g", step.index, run.energies[step.index])
    return gradient


def _corrected(run: _Run, step: _Step, denoised: Tensor, gradient: Tensor) -> Tensor:
    levels = {"sigma": step.sigma, "sigma_next": step.sigma_next, "sigma_from": step.sigma_from}
    count = run.host.clips(denoised)
    clips = zip(denoised.chunk(count), gradient.chunk(count), strict=True)
    each = [run.guide.correct(*clip, step=step.index, total_steps=step.total, **levels) for clip in clips]
    corrected = each[0] if count == 1 else torch.cat(each)
    # No gradient that is not finite gives what is; nor does every one that is.
    if bool(torch.isfinite(corrected).all()):
        run.guided.add(step.index)
        return corrected
    log.warning("step %d goes unguided: %s", step.index, _reason(step, gradient))
    run.skipped.add(step.index)
    return denoised


def _reason(step: _Step, gradient: Tensor) -> str:
    """Why a step is not guided that should be."""
    if not all(math.isfinite(energy) for energy in step.energies):
        return _NO_NUMBERS
    if bool(torch.isfinite(gradient).all()):
        return "its prediction or its push is not finite (lower the weight, or set a limit)"
    return "its gradient is not finite (--force-fp32 avoids that)"


def _calc_cond_batch(
    executor: Any, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict
) -> list[Tensor]:
    # Of a guided step the conditions are predicted apart, of others in one batch.
    forget_batches(conds)
    run: _Run = model_options["transformer_options"][_KEY]

    def predict(conds: list) -> list[Tensor]:
        return executor(model, conds, x_in, timestep, model_options)

    if run.branch.predicting:
        return run.branch.conditions(predict, conds)
    step, window = run.step, run.host.window(model_options["transformer_options"], x_in)
    # Some patches predict again inside a step (self-attention guidance and its like): those are not guided.
    guided = None if step is None or window in step.predicted else index_of(step.positive, conds)
    if step is None or guided is None or run.host.off(run.guide.taps):
        return predict(conds)
    step.predicted.add(window)
    step.model_options = model_options
    step.crops = _crops(conds[guided], x_in, timestep)
    step.latent_size = (x_in.shape[-2], x_in.shape[-1])
    return predicted_apart(predict, conds, guided, run.guiding())


def _apply_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None,
    c_crossattn: Tensor | None,
    control: Mapping[str, list] | None,
    transformer_options: dict,
    **kwargs: Any,
) -> Tensor:
    run: _Run | None = transformer_options.get(_KEY)
    if run is not None and run.branch.reading:
        with run.branch.observed(executor.class_obj.diffusion_model, x, transformer_options):
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    if run is None or not run.in_guided_pass or run.step is None:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    step, uuids = run.step, transformer_options["uuids"]
    call = ModelCall(executor, x, t, c_concat, c_crossattn, control, transformer_options, kwargs)
    window, shown = call.window(run.host), run.branch.shown
    crops = [step.crops[uuid] for uuid in uuids for _ in range(run.host.clips(x) // len(uuids) or 1)]
    timestep = float(executor.class_obj.model_sampling.timestep(t.flatten()[:1]))
    view = View(run.host.views(window), crops, step.latent_size, step.index, step.total, timestep, shown)
    prediction, gradient = run.recorder.gradient(call, view)
    step.calls.update(zip([(window, uuid) for uuid in uuids], gradient.value.chunk(len(uuids)), strict=True))
    step.energies.extend(gradient.energies)
    return prediction


_WRAPPERS = {
    WrappersMP.SAMPLER_SAMPLE: _sampler_sample,
    WrappersMP.PREDICT_NOISE: _predict_noise,
    WrappersMP.CALC_COND_BATCH: _calc_cond_batch,
    WrappersMP.APPLY_MODEL: _apply_model,
}

# --- parts --------------------------------------------------------------------------------------


def _step_index(sigmas: Tensor, sigma: float) -> int:
    """The step that starts at ``sigma``, but for rounding, or else the last one that starts above it."""
    starts = sigmas[:-1].cpu().double()  # some accelerators have no float64
    apart, nearest = (starts - sigma).abs().min(0)
    if apart <= sigma * _SIGMA_TOLERANCE:
        return int(nearest)
    return max(int((starts > sigma).sum()) - 1, 0)


def _crops(cond: Sequence[dict], x_in: Tensor, timestep: Tensor) -> dict[Any, Crop]:
    """What part of the latent each entry of a condition sees, by the entry's uuid."""
    sides = tuple(x_in.shape[2:])
    crops = {}
    for entry in cond:
        part = comfy.samplers.get_area_and_mult(entry, x_in, timestep)
        if part is not None:
            # Lengths along each axis, then where each begins; of a video the frames come first.
            area = tuple(part.area or (*sides, *(0 for _ in sides)))
            axes = len(area) // 2
            if axes > 2 and area[0] != sides[0]:
                raise GuidanceError(
                    f"a condition covers {area[0]} of {sides[0]} frames: motion guidance takes areas of the picture, "
                    f"not of time; give the condition to all frames"
                )
            crops[part.uuid] = Crop(area[-2], area[-1], area[axes - 2], area[axes - 1])
    return crops


def _fused(guider: Any, host: Host, step: _Step, x: Tensor, timestep: Tensor) -> Tensor:
    """The gradients of a step's model calls, fused as their predictions are.

    Areas, masks, strengths and context windows weigh the predictions; the code that does so weighs the gradients here,
    handed to it in place of predictions. With one entry that covers everything there is nothing to fuse.
    """
    entries, gradients = guider.conds["positive"], list(step.calls.values())
    masked = any("mask" in entry for entry in entries)
    if len(gradients) == 1 and not masked and gradients[0].shape == x.shape:
        return gradients[0]

    def recall(_: object, arguments: dict) -> Tensor:
        options = arguments["c"]["transformer_options"]
        window = host.window(options, arguments["input"], len(options["uuids"]))
        return torch.cat([step.calls[window, uuid] for uuid in options["uuids"]])

    bare = [{key: value for key, value in entry.items() if key != "control"} for entry in entries]
    options = {**step.model_options, "model_function_wrapper": recall}
    return comfy.samplers.calc_cond_batch(guider.inner_model, [bare], x, timestep, options)[0]


def _raise_if_cancelled() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _report(run: _Run, on_end: Callable[[RunSummary], None] | None) -> None:
    summary = RunSummary(
        guided=tuple(sorted(run.guided)),
        skipped=len(run.skipped),
        off=len(run.off),
        energies=dict(run.energies),
        total=run.total,
        saving=run.recorder.saving,
        model=run.host.title,
        foreground=run.branch.share,
    )
    if run.guided or run.skipped or run.off:
        log.info("motion guidance: %s", summary)
    if on_end is not None:
        on_end(summary)


__all__ = [
    "GuidanceError",
    "RunSummary",
    "UnsupportedModelError",
    "with_guidance",
    "without_guidance",
]
