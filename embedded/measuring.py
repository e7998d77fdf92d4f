"""One cell of a measurement: held-out clips, sampled under one setting, and scored against exact answers.

A *case* is a reference scene, a caption of other things, and a seed of the noise. A cell samples all cases
under one `Setting` and keeps a `Score` for each.

Shapes used here:
    b   clips      f   frames      c, h, w   channels, height and width of the latent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionclone_core.guidance import EnergyGradient, MotionGuidance
from motionclone_core.headless import extract
from motionclone_core.hosts.base import ModelIdentity, VideoSize
from motionclone_core.hosts.diffusers_animatediff import Step, sample
from motionclone_core.metrics import (
    frechet_distance,
    motion_fidelity,
    motion_magnitude,
    path_error,
    temporal_consistency,
    track_points,
    velocity_cosine,
)
from motionclone_core.representation import Crop, MotionRepresentation
from motionclone_core.schedule import BETA_RANGE, PRESETS, Preset, UpdateRule, uneven_timesteps

from .drawing import FRAMES, MOTIONS, Scene, random_scene
from .model import LATENT_CHANNELS, UNET_CONFIG, EmbeddedModel
from .scoring import caption_correct, locate

HELD_OUT = 7
# Samplers of diffusers that take any falling timesteps and evaluate the model once a step.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}
_CELLS = UNET_CONFIG["sample_size"]


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
    def wanted(self) -> Scene:
        """What a perfect result shows: the reference's motion in the target's dress."""
        return self.reference.dressed_as(self.target)


def held_out_cases(count: int, seed: int) -> list[Case]:
    """Cases that training never saw; every motion but standing still comes equally often.

    Args:
        count: how many references; the same for every seed.
        seed: of the noise.
    """
    moving = [motion for motion in MOTIONS if motion != "still"]
    cases = []
    for i in range(count):
        rng = np.random.default_rng((HELD_OUT, i))
        reference = random_scene(rng, motion=moving[i % len(moving)], objects=2 if i % 4 == 3 else 1)
        target = random_scene(rng, objects=len(reference.things))
        other = random_scene(rng, motion=moving[(i + 1) % len(moving)], objects=len(reference.things))
        cases.append(Case(i, reference, target, other, seed))
    return cases


@dataclass(frozen=True)
class Setting(Preset):
    """How a cell samples: a preset, and what else can be chosen.

    Attributes:
        k: entries kept per row.
        t_alpha: timestep of the extraction.
        blocks: which blocks are read.
        update_rule: see `guidance.corrected_denoised`.
        limit: likewise.
        scheduler: one of `SCHEDULERS`; empty for Euler (DDIM).
        other_motion: guide by the motion of the case's ``other``, the control.
    """

    k: int = 1
    t_alpha: int = 400
    blocks: str = "up_blocks.1"
    update_rule: UpdateRule = "published"
    limit: float | None = None
    scheduler: str = ""
    other_motion: bool = False


def setting_of(preset: Preset) -> Setting:
    """A preset as cells use it.

    The embedded model wants less classifier-free guidance than SD 1.5. The limit keeps coarse blocks, whose
    gradient is far stronger than that of up_blocks.1, in the range of the data.
    """
    return Setting(**{**asdict(preset), "cfg": 6.0, "limit": 0.12})


PUBLISHED = setting_of(PRESETS["camera"])
FAST = setting_of(PRESETS["fast"])


class EachGuidance:
    """A guide that leads every clip of a batch by its own motion (a `hosts.base.Guide`)."""

    def __init__(self, guides: Sequence[MotionGuidance]) -> None:
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

    def observer(self, x: Tensor, crops: Sequence[Crop]) -> EnergyGradient:
        """See `hosts.base.Guide`."""
        targets = {
            name: [guide.representation.taps[name].to(x.device) for guide in self._guides] for name in self.taps
        }
        return EnergyGradient(x, targets)

    def correct(self, denoised: Tensor, gradient: Tensor, **step: Any) -> Tensor:
        """See `hosts.base.Guide`."""
        return self._first.correct(denoised, gradient, **step)


@dataclass(frozen=True)
class Result:
    """What a cell made of one case.

    Attributes:
        video: ``[f, h, w, 3]`` RGB.
        extremes: smallest and largest value of the latents.
        energies: of the guided steps.
    """

    video: NDArray[np.uint8]
    extremes: tuple[float, float]
    energies: tuple[float, ...] = ()


def representations(model: EmbeddedModel, cases: Sequence[Case], setting: Setting) -> list[MotionRepresentation]:
    """The motion that leads each case."""
    host, null = model.host, model.null_text
    return [
        extract(
            host,
            model.encode((case.other if setting.other_motion else case.reference).render()),
            null,
            blocks=setting.blocks,
            k=setting.k,
            t_alpha=setting.t_alpha,
            noise_seed=case.seed,
        )
        for case in cases
    ]


def noise_of(cases: Sequence[Case]) -> Tensor:
    """The initial noise ``[b, c, f, h, w]``, whatever the batch that a case is in."""
    shape = (LATENT_CHANNELS, FRAMES, _CELLS, _CELLS)
    generators = (torch.Generator().manual_seed(10_000 * case.seed + case.index) for case in cases)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def generate(
    model: EmbeddedModel,
    captions: Sequence[Sequence[str]],
    noise: Tensor,
    setting: Setting,
    *,
    motions: Sequence[MotionRepresentation] = (),
    on_step: Callable[[], None] | None = None,
) -> list[Result]:
    """Sample clips in one batch.

    Args:
        model: the embedded model.
        captions: of each clip, see `drawing.Scene.words`.
        noise: ``[b, c, f, h, w]``.
        setting: how.
        motions: what each clip follows; none, or a weight or guided steps of 0, sample without guidance.
        on_step: called after each step, for progress.
    """
    guide = None
    if motions and setting.guided_steps and setting.weight:
        options = (setting.weight, setting.window, setting.update_rule, setting.limit)
        guide = EachGuidance([MotionGuidance(motion, *options) for motion in motions])
    energies: list[tuple[float, ...]] = []

    def note(_step: Step, _denoised: Tensor, found: tuple[float, ...]) -> None:
        energies.extend([found] if found else [])
        if on_step is not None:
            on_step()

    timesteps = uneven_timesteps(setting.steps, setting.guided_steps or setting.steps // 2, setting.ratio)
    latents = sample(
        model.host,
        noise,
        model.text(*captions),
        model.null_text,
        timesteps=timesteps,
        cfg=setting.cfg,
        guide=guide,
        scheduler=_scheduler(setting.scheduler, timesteps),
        generator=torch.Generator().manual_seed(0),
        on_step=note,
    )
    per_clip = list(zip(*energies, strict=True)) or [()] * len(captions)
    return [
        Result(video, (float(latent.min()), float(latent.max())), energy)
        for video, latent, energy in zip(model.decode(latents), latents, per_clip, strict=True)
    ]


def run(model: EmbeddedModel, cases: Sequence[Case], setting: Setting) -> list[Result]:
    """Sample cases under one setting, in one batch."""
    motions = representations(model, cases, setting) if setting.guided_steps and setting.weight else ()
    captions = [case.target.words for case in cases]
    return generate(model, captions, noise_of(cases), setting, motions=motions)


def ceiling(model: EmbeddedModel, cases: Sequence[Case]) -> list[Result]:
    """What cannot be bettered: the reference's motion in the asked-for dress, drawn, through the autoencoder."""
    results = []
    for case in cases:
        latent = model.encode(case.wanted.render())
        (video,) = model.decode(latent)
        results.append(Result(video, (float(latent.min()), float(latent.max()))))
    return results


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
        shape, colour, ground: share of the caption's words that are seen.
        fidelity: motion fidelity to the reference, from point tracks.
        frechet: Fréchet distance of the tracks, in diagonals.
        magnitude: motion per frame, in diagonals.
        consistency: temporal consistency.
        low, high: extremes of the latents.
    """

    path_error: float
    velocity_cosine: float
    shape: float
    colour: float
    ground: float
    fidelity: float
    frechet: float
    magnitude: float
    consistency: float
    low: float
    high: float


def score(case: Case, video: NDArray[np.uint8], extremes: tuple[float, float] = (0.0, 0.0)) -> Score:
    """Score a video ``[f, h, w, 3]`` against its case."""
    wanted = case.wanted
    found = locate(video, wanted).paths
    seen = caption_correct(video, wanted)
    tracks, reference = track_points(video), track_points(case.reference.render())
    return Score(
        path_error=path_error(found, wanted.paths),
        velocity_cosine=velocity_cosine(found, wanted.paths),
        shape=float(np.mean(seen.shape_right)),
        colour=float(np.mean(seen.colour_right)),
        ground=float(seen.ground_right),
        fidelity=motion_fidelity(tracks, reference),
        frechet=frechet_distance(tracks, reference),
        magnitude=motion_magnitude(tracks),
        consistency=temporal_consistency(video),
        low=extremes[0],
        high=extremes[1],
    )
