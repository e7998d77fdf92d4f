"""One cell of a measurement: held-out clips, sampled under one setting, and scored against exact answers.

A *case* is a reference scene, a caption of other things, and a seed of the noise. A cell samples all cases
under one `Setting` and keeps a `Score` for each.

Shapes used here:
    b   clips      f   frames      c, h, w   channels, height and width of the latent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionclone_core.energy_gradient import EnergyGradient
from motionclone_core.guidance import MotionGuidance
from motionclone_core.headless import extract, extract_series
from motionclone_core.hosts.base import Gradient, ModelIdentity, VideoSize, View
from motionclone_core.hosts.diffusers_animatediff import Step, invert, sample
from motionclone_core.inversion import inversion_timesteps, kept_among
from motionclone_core.metrics import (
    frechet_distance,
    motion_fidelity,
    motion_magnitude,
    path_error,
    temporal_consistency,
    track_points,
    velocity_cosine,
)
from motionclone_core.mixing import Motion
from motionclone_core.representation import MotionRepresentation, Window
from motionclone_core.schedule import BETA_RANGE, PRESETS, Preset, uneven_timesteps
from motionclone_core.semantics import Semantics
from motionclone_core.series import AnyReading
from motionclone_core.updates import push_of

from .drawing import FRAMES, MOTIONS, SIZE, Scene, random_scene
from .model import CELL, LATENT_CHANNELS, EmbeddedModel
from .scoring import caption_correct, locate

HELD_OUT = 7
# Samplers of diffusers that take any falling timesteps and evaluate the model once a step.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}


@dataclass(frozen=True)
class Case:
    """A reference, what to show instead, and what decides the noise: the case's number and a seed.

    ``other`` is a reference of another motion, for the control.
    """

    index: int
    reference: Scene
    target: Scene
    other: Scene
    seed: int

    @property
    def kind(self) -> str:
        """The reference's motion, such as ``turning in place``, or that it shows two things."""
        if len(self.reference.things) > 1:
            return "two things"
        motion = self.reference.motion
        return f"{motion} in place" if motion in ("turning", "zooming") and _in_place(self.reference) else motion

    @property
    def wanted(self) -> Scene:
        """What a perfect result shows: the reference's motion in the target's dress."""
        return self.reference.dressed_as(self.target)


def held_out_cases(count: int, seed: int, *, size: int = SIZE, frames: int = FRAMES) -> list[Case]:
    """Cases that training never saw; every motion but standing still comes equally often.

    Of the things that turn, every other one does so in place, and then is none whose turning cannot be seen. What is
    to be shown differs from what the reference shows in every shape and colour, and in the ground.

    Args:
        count: how many references; the same for every seed.
        seed: of the noise.
        size: side of the pictures in pixels.
        frames: how many.
    """
    cases = []
    for i in range(count):
        rng = np.random.default_rng((HELD_OUT, i))
        reference = _reference(rng, i, size, frames)
        target = _unlike(reference, rng)
        following = _MOVING[(i + 1) % len(_MOVING)]
        other = random_scene(rng, motion=following, objects=len(reference.things), size=size, frames=frames)
        cases.append(Case(i, reference, target, other, seed))
    return cases


_MOVING = [motion for motion in MOTIONS if motion != "still"]


def _reference(rng: np.random.Generator, i: int, size: int, frames: int) -> Scene:
    motion, objects = _MOVING[i % len(_MOVING)], 2 if i % 4 == 3 else 1
    in_place = i // len(_MOVING) % 2 == 1
    while True:
        scene = random_scene(rng, motion=motion, objects=objects, size=size, frames=frames)
        unseen = in_place and scene.things[0].shape == "circle"
        if motion != "turning" or (in_place == _in_place(scene) and not unseen):
            return scene


def _in_place(scene: Scene) -> bool:
    """Whether the thing that gives the motion its name stays where it is."""
    return bool(np.ptp(scene.paths[0], axis=0).max() < 1.0)


def _unlike(reference: Scene, rng: np.random.Generator) -> Scene:
    """As many things, every one of another shape and colour, before another ground."""
    while True:
        scene = random_scene(rng, objects=len(reference.things))
        pairs = zip(scene.things, reference.things, strict=True)
        if scene.ground != reference.ground and all(
            a.shape != b.shape and a.colour != b.colour for a, b in pairs
        ):
            return scene


@dataclass(frozen=True)
class Setting(Preset):
    """How a cell samples: a preset, and what else can be chosen.

    Attributes:
        t_alpha: timestep of the extraction.
        blocks: which blocks are read.
        scheduler: one of `SCHEDULERS`; empty for Euler (DDIM).
        other_motion: guide by the motion of the case's ``other``, the control.
        reuse: how many steps share one gradient.
        size: side of the pictures in pixels.
        frames: how many.
    """

    t_alpha: int = 400
    blocks: str = "up_blocks.1"
    scheduler: str = ""
    other_motion: bool = False
    reuse: int = 1
    size: int = SIZE
    frames: int = FRAMES


@dataclass(frozen=True)
class ReadSetting(Setting):
    """How a cell samples, and how it reads the motion: the last ablation axes of the paper.

    Attributes:
        caption: whether the reference's own caption conditions the reading, in place of the empty prompt.
        inversion: 0 reads the noised reference; 2 the inverted one at ``t_alpha``, once; 1 the inverted one at every
            guided step (the paper's "Inversion 2" and "Inversion 1").
        inversion_steps: of the inversion, under the reference's caption.
    """

    caption: bool = False
    inversion: int = 0
    inversion_steps: int = 100


CFG = 6.0


def setting_of(preset: Preset) -> Setting:
    """A preset as cells use it.

    The embedded model wants less classifier-free guidance than SD 1.5.
    """
    return Setting(**{**asdict(preset), "cfg": CFG})


PUBLISHED = setting_of(PRESETS["camera"])
# A push beyond this takes some clips of the published setting out of the range of the data (docs/FIDELITY.md).
LIMITED = replace(PUBLISHED, limit=0.04)
FAST = setting_of(PRESETS["fast"])


class EachGuidance:
    """A guide that leads every clip of a batch by its own motion (a `hosts.base.Guide`).

    Args:
        guides: one a clip, which differ in nothing but the motion, and guide as much of their clips as one another.

    Raises:
        ValueError: they differ in more, or there are none.
    """

    def __init__(self, guides: Sequence[MotionGuidance]) -> None:
        if not guides or any(replace(guide, motion=guides[0].motion) != guides[0] for guide in guides):
            raise ValueError(f"{len(guides)} guides: give one or more, which differ in nothing but the motion")
        # Under ``normalised`` a part of a clip is pushed less than all of it, and `correct` is not told which clip.
        strengths = {guide.strength(0, 1) for guide in guides}
        if len(strengths) > 1:
            raise ValueError(
                f"the guides push by {min(strengths):g} to {max(strengths):g}, as they guide parts of different size: "
                f"sample their clips one by one"
            )
        self._guides = tuple(guides)
        self._first = self._guides[0]

    @property
    def taps(self) -> tuple[str, ...]:
        return self._first.taps

    def require(self, model: ModelIdentity, video: VideoSize) -> None:
        """See `hosts.base.Guide`."""
        for guide in self._guides:
            guide.require(model, video)

    def strength(self, step: int, total_steps: int) -> float:
        """lambda * w_i, the same for all."""
        return self._first.strength(step, total_steps)

    def guides(self, step: int, total_steps: int, *, sigma_next: float) -> bool:
        """See `hosts.base.Guide`."""
        return self._first.guides(step, total_steps, sigma_next=sigma_next)

    @property
    def reuse(self) -> int:
        return self._first.reuse

    def compares(self, step: int, total_steps: int) -> bool:
        """See `hosts.base.Guide`; clips of a batch are held against no unguided ones."""
        return False

    def observer(self, x: Tensor, view: View, *, scale: float) -> EnergyGradient:
        """See `hosts.base.Guide`."""
        views = [replace(view, crops=[crop]) for crop in view.crops]
        several = [guide.targets(own) for guide, own in zip(self._guides, views, strict=True)]
        targets = [
            {name: [targets[name][0] for targets in window] for name in self.taps}
            for window in zip(*several, strict=True)
        ]
        return EnergyGradient(x, targets, len(several), scale)

    def correct(self, denoised: Tensor, gradient: Tensor, **step: Any) -> Tensor:
        """See `hosts.base.Guide`."""
        return self._first.correct(denoised, gradient, **step)


@dataclass(frozen=True)
class Result:
    """What a cell made of one case.

    Attributes:
        video: ``[f, h, w, 3]`` RGB; from zeros where the latents are no numbers.
        extremes: smallest and largest value of the latents; nan if one of them is no number.
        pushes: `updates.push_of` of each guided step, before any limit or normalisation; nan where the gradient
            overflowed and the step was left unguided.
    """

    video: NDArray[np.uint8]
    extremes: tuple[float, float]
    pushes: tuple[float, ...] = ()


def read_motion(
    model: EmbeddedModel,
    video: NDArray[np.uint8],
    setting: Setting,
    *,
    seed: int,
    source: str = "",
    windows: Sequence[Window] | None = None,
) -> MotionRepresentation:
    """The motion of a video ``[f, h, w, 3]``, read as a setting says; ``windows`` as in `headless.extract`."""
    return extract(
        model.host,
        model.encode(video),
        model.null_text,
        blocks=setting.blocks,
        k=setting.k,
        t_alpha=setting.t_alpha,
        noise_seed=seed,
        source=source,
        windows=windows,
    )


def representations(model: EmbeddedModel, cases: Sequence[Case], setting: Setting) -> list[AnyReading]:
    """The motion that leads each case."""
    if isinstance(setting, ReadSetting):
        return _readings(model, cases, setting)
    videos = [(case.other if setting.other_motion else case.reference).render() for case in cases]
    seeds = [seed_for(case.index, case.seed, "extraction") for case in cases]
    return [read_motion(model, video, setting, seed=seed) for video, seed in zip(videos, seeds, strict=True)]


def _readings(model: EmbeddedModel, cases: Sequence[Case], setting: ReadSetting) -> list[AnyReading]:
    latents = [model.encode(case.reference.render()) for case in cases]
    captions = [model.text(case.reference.words) for case in cases]
    timesteps = uneven_timesteps(setting.steps, setting.guided_steps, setting.ratio)[: setting.guided_steps]
    wanted = {0: (), 1: timesteps, 2: (setting.t_alpha,)}[setting.inversion]
    inverted = _inverted(model, latents, captions, wanted, setting.inversion_steps) if wanted else {}
    motions = []
    for place, (case, latent) in enumerate(zip(cases, latents, strict=True)):
        settings = {"blocks": setting.blocks, "k": setting.k}
        text = captions[place] if setting.caption else model.null_text
        if inverted:
            levels = {timestep: z[place : place + 1] for timestep, z in inverted.items()}
            series = extract_series(model.host, latent, text, levels, **settings)
            motions.append(series if setting.inversion == 1 else series.readings[0])
        else:
            seed = seed_for(case.index, case.seed, "extraction")
            motions.append(
                extract(model.host, latent, text, t_alpha=setting.t_alpha, noise_seed=seed, **settings)
            )
    return motions


def _inverted(
    model: EmbeddedModel, latents: Sequence[Tensor], texts: Sequence[Tensor], wanted: Sequence[int], steps: int
) -> dict[int, Tensor]:
    """The levels of clips' inversions nearest to the wanted ones, ``[b, c, f, h, w]`` by timestep."""
    keep = kept_among(inversion_timesteps(steps), wanted)
    return invert(model.host, torch.cat(list(latents)), torch.cat(list(texts)), steps=steps, keep=keep)


def seed_for(clip: int, seed: int, purpose: str) -> int:
    """A seed of its own for each clip and purpose, whatever the batch that a clip is in."""
    return int(np.random.SeedSequence((clip, seed, *purpose.encode())).generate_state(1)[0])


def initial_noise(clips: Sequence[int], seed: int, *, size: int = SIZE, frames: int = FRAMES) -> Tensor:
    """``[b, c, f, h, w]`` for clips by their numbers; ``size`` is in pixels."""
    shape = (LATENT_CHANNELS, frames, size // CELL, size // CELL)
    each = (torch.Generator().manual_seed(seed_for(clip, seed, "initial noise")) for clip in clips)
    return torch.stack([torch.randn(shape, generator=generator) for generator in each])


def noise_of(cases: Sequence[Case]) -> Tensor:
    """The initial noise ``[b, c, f, h, w]``."""
    scenes = [(case, case.reference) for case in cases]
    return torch.cat([initial_noise([c.index], c.seed, size=s.size, frames=s.frames) for c, s in scenes])


class _Pushes:
    """Notes how strongly each guided step pushes each clip."""

    def __init__(
        self, guide: EachGuidance | MotionGuidance | None, steps: int, on_step: Callable[[], None] | None
    ) -> None:
        self._guide, self._steps, self._on_step = guide, steps, on_step
        self.rows: list[list[float]] = []

    def __call__(self, step: Step, denoised: Tensor, gradient: Gradient | None) -> None:
        if gradient is not None and self._guide is not None:
            self.rows.append([self._push(step, clip) for clip in gradient.value.chunk(len(denoised))])
        if self._on_step is not None:
            self._on_step()

    def _push(self, step: Step, gradient: Tensor) -> float:
        if not bool(gradient.isfinite().all()):
            return float("nan")
        strength = self._guide.strength(step.index, self._steps)
        return push_of(gradient, strength=strength, sigma=step.sigma)

    def of(self, clip: int) -> tuple[float, ...]:
        return tuple(row[clip] for row in self.rows)


def generate(
    model: EmbeddedModel,
    captions: Sequence[Sequence[str]],
    noise: Tensor,
    setting: Setting,
    *,
    motions: Sequence[Motion | AnyReading] = (),
    windows: Sequence[Window] | None = None,
    generator: list[torch.Generator] | None = None,
    semantics: Semantics | None = None,
    on_step: Callable[[], None] | None = None,
) -> list[Result]:
    """Sample clips in one batch.

    Args:
        model: the embedded model.
        captions: of each clip, see `drawing.Scene.words`.
        noise: ``[b, c, f, h, w]``.
        setting: how.
        motions: what each clip follows; none, or a weight of 0, sample without guidance.
        windows: the frames that the model sees at once, if it does not see all of them.
        generator: of the noise that the scheduler adds, one a clip.
        semantics: of a single clip that follows a motion.
        on_step: called after each step, for progress.
    """
    guide = _guide(setting, motions, semantics) if motions and setting.weight else None
    pushes = _Pushes(guide, setting.steps, on_step)
    timesteps = uneven_timesteps(setting.steps, setting.guided_steps, setting.ratio)
    latents = sample(
        model.host,
        noise,
        model.text(*captions),
        model.null_text,
        timesteps=timesteps,
        cfg=setting.cfg,
        guide=guide,
        windows=windows,
        scheduler=_scheduler(setting.scheduler, timesteps),
        generator=generator,
        on_step=pushes,
    )
    return [_result(model, latent, pushes.of(i)) for i, latent in enumerate(latents.split(1))]


def _guide(
    setting: Setting, motions: Sequence[Motion | AnyReading], semantics: Semantics | None
) -> EachGuidance | MotionGuidance:
    if semantics is not None:
        (motion,) = motions
        return MotionGuidance.of(motion, setting, reuse=setting.reuse, semantics=semantics)
    return EachGuidance([MotionGuidance.of(motion, setting, reuse=setting.reuse) for motion in motions])


def _result(model: EmbeddedModel, latent: Tensor, pushes: tuple[float, ...] = ()) -> Result:
    (video,) = model.decode(latent.nan_to_num(0.0, 0.0, 0.0))
    extremes = latent.aminmax()
    finite = bool(latent.isfinite().all())
    return Result(video, tuple(float(x) if finite else float("nan") for x in extremes), pushes)


def run(model: EmbeddedModel, cases: Sequence[Case], setting: Setting) -> list[Result]:
    """Sample cases under one setting, in one batch."""
    motions = representations(model, cases, setting) if setting.weight else ()
    captions = [case.target.words for case in cases]
    added = [torch.Generator().manual_seed(seed_for(case.index, case.seed, "added noise")) for case in cases]
    return generate(model, captions, noise_of(cases), setting, motions=motions, generator=added)


def ceiling(model: EmbeddedModel, cases: Sequence[Case]) -> list[Result]:
    """What cannot be bettered: the reference's motion in the asked-for dress, drawn, through the autoencoder."""
    return [_result(model, model.encode(case.wanted.render())) for case in cases]


def _scheduler(name: str, timesteps: Sequence[int]) -> Any:
    """A scheduler of diffusers on our timesteps, or None for Euler.

    Raises:
        ValueError: the name is not in `SCHEDULERS`.
    """
    if not name:
        return None
    if name not in SCHEDULERS:
        raise ValueError(f"sampler {name!r} is unknown: choose one of {', '.join(SCHEDULERS)}")
    import diffusers

    kind, options = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(
        beta_start=BETA_RANGE[0], beta_end=BETA_RANGE[1], beta_schedule="linear", **options
    )
    scheduler.set_timesteps(timesteps=list(timesteps))
    return scheduler


@dataclass(frozen=True)
class Score:
    """How well one video does what its case asks; see `scoring` and `motionclone_core.metrics`.

    Attributes:
        path_error: pixels, from the reference's exact path.
        velocity_cosine: over the frames in which the reference moves; nan if it never does.
        seen: share of the frames in which things of the asked-for colours are seen at all.
        shape, colour, ground: share of the caption's words that are obeyed.
        fidelity: motion fidelity to the reference, from point tracks.
        frechet: Fréchet distance of the tracks, in diagonals.
        magnitude: motion per frame, in diagonals.
        consistency: temporal consistency.
        low, high: extremes of the latents; nan if they hold what is no number.
        push: mean of the guided steps' pushes (see `Result`); nan without guidance.
        limited: guided steps whose push was beyond the limit.
        skipped: guided steps that went unguided because their gradient overflowed.
    """

    path_error: float
    velocity_cosine: float
    seen: float
    shape: float
    colour: float
    ground: float
    fidelity: float
    frechet: float
    magnitude: float
    consistency: float
    low: float
    high: float
    push: float
    limited: int
    skipped: int


def score(case: Case, result: Result, limit: float | None = None) -> Score:
    """Score a result against its case; ``limit`` is the setting's."""
    wanted, video = case.wanted, result.video
    found, caption = locate(video, wanted), caption_correct(video, wanted)
    tracks, reference = track_points(video), track_points(case.reference.render())
    pushes = np.array(result.pushes)
    return Score(
        path_error=path_error(found.paths, wanted.paths),
        velocity_cosine=velocity_cosine(found.paths, wanted.paths),
        seen=float(found.found.mean()),
        shape=float(np.mean(caption.shape_right)),
        colour=float(np.mean(caption.colour_right)),
        ground=float(caption.ground_right),
        fidelity=motion_fidelity(tracks, reference),
        frechet=frechet_distance(tracks, reference),
        magnitude=motion_magnitude(tracks),
        consistency=temporal_consistency(video),
        low=result.extremes[0],
        high=result.extremes[1],
        push=float(np.nanmean(pushes)) if np.isfinite(pushes).any() else float("nan"),
        limited=int((pushes > limit).sum()) if limit is not None else 0,
        skipped=int(np.isnan(pushes).sum()),
    )
