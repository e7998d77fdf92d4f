"""AnimateDiff in diffusers: ``UNetMotionModel`` of any width, headless.

`headless` shows how to use it with an AnimateDiff pipeline.

Shapes used here:
    b   clips      f   frames      c, h, w   channels, height and width of the latent      l, d   words and width
    z   a noisy latent of unit variance      x = z sqrt(1 + sigma^2), in which guides and samplers reckon
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..grids import Crop, RepresentationMismatchError
from ..inversion import Level, inversion_timesteps, inverted, levels_of
from ..representation import Window
from ..schedule import alphas_cumprod, beside_a_seam, sigma_at
from ..taps import tap_name
from ..windows import fused
from .autograd import recording
from .base import (
    AttentionObserver,
    CallObserver,
    Gradient,
    Guide,
    ModelIdentity,
    StopForward,
    UnsupportedModelError,
    VideoSize,
    View,
    fingerprint,
)
from .crossattention import attending
from .diffusers_appearance import UnguidedClip, word_layers
from .gradients import GradientScale, SharedGradient

log = logging.getLogger(__name__)

_SD15_WIDTHS = (320, 640, 1280, 1280)


class DiffusersAnimateDiff:
    """A ``UNetMotionModel`` as a host.

    Args:
        unet: predicts noise under AnimateDiff's noise schedule, linear betas from 0.00085 to 0.012.

    Raises:
        UnsupportedModelError: it has no motion modules.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        if not self.sites:
            raise UnsupportedModelError(
                f"{type(unet).__name__} has no temporal self-attention: give diffusers' UNetMotionModel, such as "
                f"the unet of an AnimateDiffPipeline"
            )

    @property
    def sites(self) -> dict[str, Any]:
        """The temporal self-attention modules by tap name, in the order of execution."""
        unet = self.unet
        stages = [
            *((f"down_blocks.{i}", block) for i, block in enumerate(getattr(unet, "down_blocks", ()))),
            ("mid_block", getattr(unet, "mid_block", None)),
            *((f"up_blocks.{i}", block) for i, block in enumerate(getattr(unet, "up_blocks", ()))),
        ]
        return {
            tap_name(name, m, layer): attention
            for name, block in stages
            for m, module in enumerate(getattr(block, "motion_modules", ()))
            for layer, attention in enumerate(_self_attention(module))
        }

    @property
    def identity(self) -> ModelIdentity:
        """Architecture, fingerprint and heads; see `ModelIdentity`.

        A motion read off SD 1.5 here fits AnimateDiff-Evolved, and the other way round.
        """
        sites = self.sites
        widths = tuple(self.unet.config.block_out_channels)
        return ModelIdentity(
            architecture="animatediff/" + ("SD1.5" if widths == _SD15_WIDTHS else "-".join(map(str, widths))),
            fingerprint=fingerprint({name: attention.to_q.weight for name, attention in sites.items()}),
            heads={name: attention.heads for name, attention in sites.items()},
        )

    def require_video(self, frames: int) -> None:
        """Check the number of frames against the motion modules' positional encoding.

        Raises:
            RepresentationMismatchError: too many frames; the message says both numbers.
        """
        limit = self.unet.config.motion_max_seq_length
        if frames > limit:
            raise RepresentationMismatchError(
                f"{frames} frames are more than the {limit} that the motion modules were made for: use at most "
                f"{limit}"
            )

    @contextmanager
    def observing(self, observer: AttentionObserver) -> Iterator[None]:
        """Hand the queries and keys of ``observer.taps`` to the observer while the block runs."""
        sites = self.sites
        handles = []
        try:
            for name in observer.taps:
                handles += _tap(name, sites[name], observer)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def predict(self, z: Tensor, timestep: int, text: Tensor) -> Tensor:
        """The noise in ``z`` ``[b, c, f, h, w]`` at one timestep, under ``text`` ``[b or 1, l, d]``.

        The network works in its own dtype; ``z`` and the result keep theirs.
        """
        text = text.expand(z.shape[0], -1, -1).repeat_interleave(z.shape[2], 0)
        dtype = self.unet.dtype
        return self.unet(z.to(dtype), timestep, encoder_hidden_states=text.to(dtype)).sample.to(z.dtype)


def _self_attention(module: Any) -> Iterator[Any]:
    for block in module.transformer_blocks:
        for attention in (block.attn1, block.attn2):
            if attention is not None and not attention.is_cross_attention:
                yield attention


def _tap(name: str, attention: Any, observer: AttentionObserver) -> list[Any]:
    # Both projections see the frames after the positional encoding; the keys come second.
    queries: list[Tensor] = []

    def keep_queries(_module: Any, _args: Any, q: Tensor) -> None:
        queries[:] = [q]

    def hand_over(_module: Any, _args: Any, k: Tensor) -> None:
        observer.observe(name, queries.pop(), k, attention.heads)

    return [attention.to_q.register_forward_hook(keep_queries), attention.to_k.register_forward_hook(hand_over)]


# --- one observed pass ------------------------------------------------------------------------------------


@torch.no_grad()
def observe_reference(
    host: DiffusersAnimateDiff,
    observer: AttentionObserver,
    *,
    latent: Tensor,
    noise: Tensor,
    timestep: int,
    text: Tensor,
) -> None:
    """Noise a latent to ``timestep`` and run the model on it once, conditional pass only.

    Args:
        host: the model.
        observer: told of its taps; may end the call with `StopForward`.
        latent: clean, ``[b, c, f, h, w]``.
        noise: standard normal, same shape.
        timestep: 0 to 999.
        text: what the pass is conditioned on, ``[b or 1, l, d]``; the paper's is the null text.

    Raises:
        RepresentationMismatchError: more frames than the motion modules take.
    """
    observe_noisy(host, observer, z=noised(latent, noise, timestep), timestep=timestep, text=text)


def noised(latent: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """z at a timestep, of a clean latent and standard normal noise of one shape."""
    abar = float(alphas_cumprod()[timestep])
    return math.sqrt(abar) * latent + math.sqrt(1 - abar) * noise


@torch.no_grad()
def observe_noisy(
    host: DiffusersAnimateDiff, observer: AttentionObserver, *, z: Tensor, timestep: int, text: Tensor
) -> None:
    """As `observe_reference`, of a latent ``[b, c, f, h, w]`` that has its noise already, such as an inverted one."""
    host.require_video(z.shape[2])
    with host.observing(observer):
        try:
            host.predict(z, timestep, text)
        except StopForward:
            return


# --- inversion --------------------------------------------------------------------------------------------


@torch.no_grad()
def invert(
    host: DiffusersAnimateDiff,
    latent: Tensor,
    text: Tensor,
    *,
    steps: int,
    keep: Collection[int] | None = None,
    on_step: Callable[[Level], None] | None = None,
) -> dict[int, Tensor]:
    """The noisy latents that clips would be sampled from, without guidance of any kind.

    Args:
        host: the model.
        latent: clean, ``[b, c, f, h, w]``.
        text: the references' own captions, ``[b or 1, l, d]``.
        steps: of the inversion, see `inversion.inversion_timesteps`.
        keep: the timesteps to keep, of the inversion's own; None keeps all. It ends at the last of them.
        on_step: told of each level that is reached.

    Returns:
        z of the kept levels, shaped like the latent, by timestep, rising.

    Raises:
        ValueError: see `inversion.inversion_timesteps`.
        RepresentationMismatchError: more frames than the motion modules take.
    """
    host.require_video(latent.shape[2])
    timesteps = inversion_timesteps(steps)
    keep = frozenset(timesteps if keep is None else keep)
    levels = levels_of(timesteps, [sigma_at(timestep) for timestep in timesteps])
    clean = latent.to(torch.promote_types(latent.dtype, torch.float32))
    kept = {}
    needed = (level for level in levels if level.timestep <= max(keep))
    for level, z in inverted(clean, needed, lambda z, level: host.predict(z, level.timestep, text)):
        if level.timestep in keep:
            kept[level.timestep] = z
        if on_step is not None:
            on_step(level)
    return kept


# --- a guided run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of a run: where the model is evaluated, and where the step ends (sigma 0 at the end)."""

    index: int
    timestep: int
    sigma: float
    sigma_next: float
    total: int


def steps_of(timesteps: Sequence[int]) -> list[Step]:
    """The steps through falling timesteps, down to no noise.

    Raises:
        ValueError: they do not fall, or lie outside 0 to 999.
    """
    if not timesteps or max(timesteps) > 999 or min(timesteps) < 0:
        raise ValueError(f"timesteps {list(timesteps)} must lie in 0 to 999, and there must be one at least")
    for now, following in pairwise(timesteps):
        if not now > following:
            raise ValueError(f"timesteps must fall at every step, but {now} is followed by {following}")
    sigmas = [*map(sigma_at, timesteps), 0.0]
    return [Step(i, int(t), sigmas[i], sigmas[i + 1], len(timesteps)) for i, t in enumerate(timesteps)]


def guided(guide: Guide | None, steps: Sequence[Step], *, exact: bool) -> list[bool]:
    """Which steps are guided: none without a guide, and none beside a seam unless the sampler is ``exact``."""
    sigmas = [*(step.sigma for step in steps), 0.0]
    return [
        guide is not None
        and guide.guides(step.index, step.total, sigma_next=step.sigma_next)
        and (exact or not beside_a_seam(sigmas, step.index))
        for step in steps
    ]


def _exact(scheduler: Any) -> bool:
    """Whether a step moves the latent by what ``denoised`` says and nothing earlier; see `schedule.beside_a_seam`."""
    return scheduler is None or type(scheduler).__name__ in ("EulerDiscreteScheduler", "DDIMScheduler")


@torch.no_grad()
def sample(
    host: DiffusersAnimateDiff,
    noise: Tensor,
    text: Tensor,
    null_text: Tensor,
    *,
    timesteps: Sequence[int],
    cfg: float = 8.5,
    guide: Guide | None = None,
    windows: Sequence[Window] | None = None,
    scheduler: Any = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[Step, Tensor, Gradient | None], None] | None = None,
) -> Tensor:
    """Sample clips, guided or not.

    Args:
        host: the model.
        noise: standard normal, ``[b, c, f, h, w]``; decides the clips.
        text: of the clips, ``[b or 1, l, d]``.
        null_text: of the unconditional pass, same shape.
        timesteps: falling, such as `schedule.uneven_timesteps` gives.
        cfg: ComfyUI's; the paper's guidance scale s is 1 less.
        guide: motion guidance; none samples as if this project were not there.
        windows: the frames that the model sees at once, if it does not see all of them; see `windows.fused`.
        scheduler: one of diffusers' that evaluates the model once a step, with its timesteps set to
            ``timesteps``; Euler, which is DDIM without added noise, if it is left out.
        generator: of the scheduler's noise, where it adds any; or one for each clip.
        on_step: told of each step, its predicted clean latent with the guidance in it, and the energies of the
            clips with their gradient (None where the step was not guided).

    Returns:
        Clean latents, ``[b, c, f, h, w]``, in float32 or finer whatever the network's dtype.

    Raises:
        ValueError: the timesteps do not fall, the scheduler evaluates the model more than once a step, or several clips
            or windows are to be held against unguided ones.
        RepresentationMismatchError: the guide does not fit the model or the video.
    """
    windows = (tuple(range(noise.shape[2])),) if windows is None else tuple(windows)
    host.require_video(max(map(len, windows)))
    if guide is not None:
        guide.require(host.identity, VideoSize(noise.shape[2], noise.shape[3], noise.shape[4]))
    steps = steps_of(timesteps)
    marked = guided(guide, steps, exact=_exact(scheduler))
    shared = SharedGradient(1 if guide is None else guide.reuse)
    stepper = _Euler() if scheduler is None else _Scheduler(scheduler, timesteps, generator)
    # Guidance is a small difference of large numbers: half precision would lose it.
    state = stepper.begin(noise.to(torch.promote_types(noise.dtype, torch.float32)))
    beside = _beside(guide, stepper.level(state, steps[0]) * math.sqrt(1 + steps[0].sigma ** 2), steps)
    run = _Run(host, text, null_text, cfg, guide, windows, marked, GradientScale(), shared, beside)
    for step in steps:
        x = stepper.level(state, step) * math.sqrt(1 + step.sigma**2)
        if beside is not None:
            beside.follow(step.index, partial(run.unguided_at, step))
        denoised, gradient = run.denoised(x, step)
        state = stepper.step(state, x, denoised, step)
        if on_step is not None:
            on_step(step, denoised, gradient)
    return state


def _beside(guide: Guide | None, x: Tensor, steps: Sequence[Step]) -> UnguidedClip | None:
    """The unguided clip of a run, if any of its steps is held against one."""
    if guide is None or not any(guide.compares(step.index, step.total) for step in steps):
        return None
    return UnguidedClip(guide, x, [*(step.sigma for step in steps), 0.0])


@dataclass(frozen=True)
class _Run:
    host: DiffusersAnimateDiff
    text: Tensor
    null_text: Tensor
    cfg: float
    guide: Guide | None
    windows: Sequence[Window]
    guided: Sequence[bool]
    scale: GradientScale
    shared: SharedGradient
    beside: UnguidedClip | None = None

    def unguided_at(self, step: Step, x: Tensor, reader: CallObserver | None) -> Tensor:
        """``denoised`` of the unguided clip, whose conditional call is read."""
        if reader is None:
            return x - step.sigma * self._unguided(x, step)
        layers = word_layers(self.host.unet) if reader.tokens else ()
        with self.host.observing(reader), attending(layers, reader.tokens, reader.attend):
            noise = self._predict(x, step, self.text)
        if self.cfg != 1.0:
            unconditional = self._predict(x, step, self.null_text)
            noise = unconditional + self.cfg * (noise - unconditional)
        return x - step.sigma * noise

    def denoised(self, x: Tensor, step: Step) -> tuple[Tensor, Gradient | None]:
        """The clean latent that the sampler is given, with the guidance in it, and what guided it."""
        if self.guide is None or not self.guided[step.index]:
            return x - step.sigma * self._unguided(x, step), None
        by_x, gradient = self.shared.at(step.index, step.sigma), None
        if by_x is not None:
            noise = self._unguided(x, step)
        else:
            noise, gradient = self.scale.take(partial(self._conditional, x, step, self.guide))
            by_x = rearrange(gradient.value, "(b f) c h w -> b c f h w", b=x.shape[0])
            self.shared.keep(by_x, step.index, step.sigma)
            if self.cfg != 1.0:
                unconditional = self._predict(x, step, self.null_text)
                noise = unconditional + self.cfg * (noise - unconditional)
        clips = zip(x - step.sigma * noise, by_x, strict=True)
        return torch.stack([self._corrected(clip, push, step) for clip, push in clips]), gradient

    def _corrected(self, clip: Tensor, gradient: Tensor, step: Step) -> Tensor:
        levels = {"sigma": step.sigma, "sigma_next": step.sigma_next}
        corrected = self.guide.correct(clip, gradient, step=step.index, total_steps=step.total, **levels)
        if bool(corrected.isfinite().all()):
            return corrected
        log.warning("step %d of a clip goes unguided: its gradient or its push overflowed", step.index)
        return clip

    def _conditional(self, x: Tensor, step: Step, guide: Guide, scale: float) -> tuple[Tensor, Gradient]:
        calls = [self._recorded(x, window, step, guide, scale) for window in self.windows]
        noise = fused([noise for noise, _ in calls], self.windows, dim=2)
        by_clip = [rearrange(gradient.value, "(b f) c h w -> b f c h w", b=x.shape[0]) for _, gradient in calls]
        value = rearrange(fused(by_clip, self.windows, dim=1), "b f c h w -> (b f) c h w")
        energies = zip(*(gradient.energies for _, gradient in calls), strict=True)
        return noise, Gradient(value, tuple(sum(clip) / len(calls) for clip in energies))

    def _recorded(
        self, x: Tensor, window: Window, step: Step, guide: Guide, scale: float
    ) -> tuple[Tensor, Gradient]:
        with recording():
            x = x[:, :, list(window)]
            frames = rearrange(x, "b c f h w -> (b f) c h w").detach().clone().requires_grad_()
            crops = [Crop(0, 0, x.shape[3], x.shape[4])] * x.shape[0]
            size = (x.shape[3], x.shape[4])
            shown = None if self.beside is None else self.beside.shown
            view = View((window,), crops, size, step.index, step.total, step.timestep, shown)
            observer = guide.observer(frames, view, scale=scale)
            with self.host.observing(observer):
                noise = self._seen(rearrange(frames, "(b f) c h w -> b c f h w", b=x.shape[0]), step, self.text)
        return noise.detach(), observer.result()

    def _unguided(self, x: Tensor, step: Step) -> Tensor:
        if self.cfg == 1.0:
            return self._predict(x, step, self.text)
        both = torch.cat([text.expand(x.shape[0], -1, -1) for text in (self.null_text, self.text)])
        unconditional, conditional = self._predict(torch.cat([x, x]), step, both).chunk(2)
        return unconditional + self.cfg * (conditional - unconditional)

    def _predict(self, x: Tensor, step: Step, text: Tensor) -> Tensor:
        if len(self.windows) == 1:
            return self._seen(x, step, text)
        return fused([self._seen(x[:, :, list(window)], step, text) for window in self.windows], self.windows, dim=2)

    def _seen(self, x: Tensor, step: Step, text: Tensor) -> Tensor:
        """The prediction for frames that the model sees at once."""
        return self.host.predict(x / math.sqrt(1 + step.sigma**2), step.timestep, text)


class _Euler:
    """Keeps z, as DDIM does; the step is Euler's in x."""

    def begin(self, noise: Tensor) -> Tensor:
        return noise

    def level(self, state: Tensor, step: Step) -> Tensor:
        return state

    def step(self, state: Tensor, x: Tensor, denoised: Tensor, step: Step) -> Tensor:
        moved = x + (x - denoised) / step.sigma * (step.sigma_next - step.sigma)
        return moved / math.sqrt(1 + step.sigma_next**2)


class _Scheduler:
    """One of diffusers' schedulers, handed the noise that the corrected ``denoised`` stands for."""

    def __init__(self, scheduler: Any, timesteps: Sequence[int], generator: Any) -> None:
        own = [round(float(t)) for t in scheduler.timesteps]
        if getattr(scheduler, "order", 1) != 1 or own != list(timesteps):
            raise ValueError(
                f"{type(scheduler).__name__} runs the model {len(own)} times, the schedule has {len(timesteps)} steps, "
                f"or their timesteps differ: give a scheduler that evaluates the model once a step, with its "
                f"timesteps set to the schedule's"
            )
        self._scheduler = scheduler
        self._step = scheduler.step
        if generator is not None:
            self._step = partial(scheduler.step, generator=generator)

    def begin(self, noise: Tensor) -> Tensor:
        # Some keep x and some z: scaled so that the model's first input is the noise itself.
        return noise / self._scheduler.scale_model_input(torch.ones(()), self._scheduler.timesteps[0])

    def level(self, state: Tensor, step: Step) -> Tensor:
        return self._scheduler.scale_model_input(state, self._scheduler.timesteps[step.index])

    def step(self, state: Tensor, x: Tensor, denoised: Tensor, step: Step) -> Tensor:
        noise = (x - denoised) / step.sigma
        return self._step(noise, self._scheduler.timesteps[step.index], state).prev_sample
