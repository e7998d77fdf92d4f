"""Motion representation in, guided model or guided video out."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..motionclone_core.guidance import MotionGuidance
from ..motionclone_core.hosts import comfy_sampling
from ..motionclone_core.hosts.comfy_host import host_of, require_image_model
from ..motionclone_core.hosts.comfy_memory import MEMORY_MODES, MemoryMode
from ..motionclone_core.hosts.comfy_runtime import RunSummary, with_guidance
from ..motionclone_core.mixing import Motion
from ..motionclone_core.schedule import (
    DEFAULT_WEIGHT,
    PRESETS,
    UPDATE_RULES,
    GuidanceWindow,
    Preset,
    StrengthCurve,
    UpdateRule,
)
from ..motionclone_core.semantics import Semantics
from ..motionclone_core.series import AnyReading
from ..motionclone_core.taps import weights_of
from .reports import plot_of, show, shown_in
from .sockets import MotionCurve, MotionRep, MotionSemantics, node_schema

_CUSTOM = "custom"


def _weight_input() -> io.Float.Input:
    return io.Float.Input(
        "weight",
        default=DEFAULT_WEIGHT,
        min=0.0,
        max=1e6,
        step=50.0,
        round=False,
        tooltip="How strongly the motion is followed: lambda, 2000 as published. 0 is off.",
    )


def _window_inputs() -> list[io.Int.Input]:
    return [
        io.Int.Input(
            "warm_up",
            default=10,
            min=0,
            max=10000,
            tooltip="Guided steps over which the strength rises at the start.",
        ),
        io.Int.Input(
            "cool_down",
            default=10,
            min=0,
            max=10000,
            tooltip="Guided steps over which the strength falls at the end.",
        ),
    ]


def _update_rule_input() -> io.Combo.Input:
    return io.Combo.Input(
        "update_rule",
        options=list(UPDATE_RULES),
        default="published",
        tooltip="published: as the authors' program does it. paper: Eq. 2 to the letter, about 30 times weaker at "
        "50 guided steps, so raise the weight. normalised: every step pushes equally hard, whatever the model, the "
        "size and the motion; for few steps, as in the preset fast. Let it cool down.",
    )


def _limit_input() -> io.Float.Input:
    return io.Float.Input(
        "limit",
        default=0.0,
        min=0.0,
        max=10.0,
        step=0.01,
        round=0.001,
        optional=True,
        tooltip="The strongest push of one step, as a share of the noise: a stronger one is shortened to it. Try 0.04 "
        "if a clip breaks up. 0 is off, as published.",
    )


def _cost_inputs() -> list[io.WidgetInput]:
    return [
        io.Combo.Input(
            "memory",
            options=list(MEMORY_MODES),
            default="auto",
            optional=True,
            tooltip="What a guided step keeps for its gradient. speed: everything. memory: a fraction, and runs layers "
            "again. auto: everything for as long as there is room. The result is the same.",
        ),
        io.Int.Input(
            "reuse",
            default=1,
            min=1,
            max=100,
            optional=True,
            tooltip="Guided steps in a row that share one gradient: all but the first of them cost what unguided ones "
            "do. 1 takes a gradient at every step, as published.",
        ),
    ]


def _curve_input() -> Any:
    return MotionCurve.Input(
        "curve",
        optional=True,
        tooltip="The strength over the whole run, from Motion Strength Keyframe. It takes the place of guided steps, "
        "warm-up and cool-down; the MotionClone scheduler still crowds guided_steps into its noisiest part.",
    )


def _first_version_inputs() -> list[Any]:
    return [
        io.String.Input(
            "block_weights",
            default="",
            optional=True,
            tooltip="What the weight is multiplied by in each block, such as up_blocks.1: 1, up_blocks.2: 0.5. Blocks "
            "that are not named keep 1.",
        ),
        MotionSemantics.Input(
            "semantics",
            optional=True,
            tooltip="From Semantic Guidance: puts what an unguided video shows where the reference's subject is.",
        ),
    ]


def _steps_inputs() -> list[io.WidgetInput]:
    return [
        io.Int.Input(
            "steps",
            default=100,
            min=1,
            max=1000,
            tooltip="All steps: 100 for camera motion, 300 for object motion as published.",
        ),
        io.Int.Input(
            "guided_steps",
            default=50,
            min=0,
            max=1000,
            tooltip="Steps, counted from the first, that follow the motion.",
        ),
        io.Float.Input(
            "ratio",
            default=0.3,
            min=0.01,
            max=0.99,
            step=0.01,
            tooltip="The noisiest part of the noise schedule, which the guided steps share.",
        ),
    ]


class ApplyMotionGuidance(io.ComfyNode):
    """A MODEL that any KSampler guides by a motion representation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneApplyGuidance",
            display_name="Apply Motion Guidance",
            description="Makes the model follow a motion while any KSampler or SamplerCustom samples it. Right for "
            "euler and ddim; samplers that it does not fit are refused when they run.",
            search_aliases=["motion transfer", "video motion transfer", "motion guidance", "follow motion"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that you would connect to the sampler: AnimateDiff, CogVideoX or Wan."
                ),
                MotionRep.Input("motion_rep", tooltip="The motion to follow."),
                _weight_input(),
                io.Int.Input(
                    "start_step",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="The first guided step. A run split between samplers counts anew in each.",
                ),
                io.Int.Input(
                    "guided_steps",
                    default=50,
                    min=0,
                    max=10000,
                    tooltip="How many steps are guided; "
                    "about half of the sampler's steps. More than the run has means all of them; a last step that "
                    "leaves no noise cannot be pushed.",
                ),
                *_window_inputs(),
                _update_rule_input(),
                _limit_input(),
                *_cost_inputs(),
                _curve_input(),
                *_first_version_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The guided model, for any sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        motion_rep: AnyReading | Motion,
        weight: float,
        start_step: int,
        guided_steps: int,
        warm_up: int,
        cool_down: int,
        update_rule: UpdateRule,
        limit: float = 0.0,
        memory: MemoryMode = "auto",
        reuse: int = 1,
        curve: StrengthCurve | None = None,
        block_weights: str = "",
        semantics: Semantics | None = None,
    ) -> io.NodeOutput:
        """See the class."""
        _require_image_model(model, semantics)
        window = curve or GuidanceWindow(start_step, guided_steps, warm_up, cool_down)
        blocks = weights_of(block_weights)
        guidance = MotionGuidance(motion_rep, weight, window, update_rule, limit or None, reuse, blocks, semantics)
        on_end = shown_in(cls.hidden.unique_id)
        return io.NodeOutput(with_guidance(model, guidance, memory=memory, on_end=on_end))


def _require_image_model(model: Any, semantics: Semantics | None) -> None:
    if semantics is not None:
        require_image_model(host_of(model), "Semantic Guidance")


class MotionCloneScheduler(io.ComfyNode):
    """Sigmas that crowd the guided steps into the noisiest part of the schedule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneScheduler",
            display_name="MotionClone Scheduler",
            description="The uneven timesteps of the published program, for SamplerCustom.",
            search_aliases=["uneven timesteps", "motion sigmas", "motion schedule"],
            inputs=[
                io.Model.Input("model", tooltip="Its noise schedule turns timesteps into sigmas."),
                *_steps_inputs(),
            ],
            outputs=[io.Sigmas.Output(tooltip="steps + 1 noise levels, falling to 0.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, guided_steps: int, ratio: float) -> io.NodeOutput:
        """See the class."""
        sigmas = comfy_sampling.uneven_sigmas(model, steps=steps, guided_steps=guided_steps, ratio=ratio)
        return io.NodeOutput(sigmas)


class MotionCloneGuidedKSampler(io.ComfyNode):
    """Guidance, schedule and sampler in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneGuidedKSampler",
            display_name="MotionClone Guided KSampler",
            description="A KSampler with one wire more: the new video follows the motion representation.",
            search_aliases=["motion transfer", "video motion transfer", "motion sampler", "animatediff ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="An AnimateDiff model, a CogVideoX or a Wan 2.1 / 2.2."),
                MotionRep.Input("motion_rep", tooltip="The motion to follow."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input(
                    "latent_image", tooltip="As many frames as the representation has; the size may differ."
                ),
                io.Combo.Input(
                    "preset",
                    options=[_CUSTOM, *PRESETS],
                    default=_CUSTOM,
                    tooltip="A published setting, or fast, which follows in 30 steps. It replaces steps, guided steps, "
                    "ratio, cfg, weight, warm-up, cool-down, update rule, limit and the scheduler below, and first "
                    "version the block weights; custom uses what you set.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the starting noise.",
                ),
                *_steps_inputs(),
                io.Float.Input(
                    "cfg",
                    default=8.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="ComfyUI's scale: 8.5 here is the 7.5 of the paper.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="euler",
                    tooltip="euler and ddim are exact; the others leave out guided steps that are far shorter than the "
                    "one after them, such as the last one and late ones of a flow. Samplers that guidance does not fit "
                    "are refused.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[comfy_sampling.SCHEDULER, *comfy.samplers.SCHEDULER_NAMES],
                    default=comfy_sampling.SCHEDULER,
                    tooltip="motionclone lays out the steps unevenly, by ratio; the others are ComfyUI's own.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 keeps something of the latent that is fed in.",
                ),
                _weight_input(),
                *_window_inputs(),
                _update_rule_input(),
                _limit_input(),
                *_cost_inputs(),
                _curve_input(),
                *_first_version_inputs(),
            ],
            outputs=[
                io.Latent.Output(tooltip="The video, as latents."),
                io.String.Output(
                    display_name="report",
                    tooltip="How many steps were guided, and what became of the energy; a line for each run, of which "
                    "AnimateDiff's iterations make several.",
                ),
                io.Image.Output(
                    display_name="energy_plot",
                    tooltip="The energy over the steps: how far the video's motion was from the one to follow.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        motion_rep: AnyReading | Motion,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        preset: str,
        seed: int,
        steps: int,
        guided_steps: int,
        ratio: float,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        weight: float,
        warm_up: int,
        cool_down: int,
        update_rule: UpdateRule,
        limit: float = 0.0,
        memory: MemoryMode = "auto",
        reuse: int = 1,
        curve: StrengthCurve | None = None,
        block_weights: str = "",
        semantics: Semantics | None = None,
    ) -> io.NodeOutput:
        """See the class."""
        _require_image_model(model, semantics)
        chosen = PRESETS.get(preset)
        if chosen is None:
            chosen = Preset(
                steps=steps,
                guided_steps=guided_steps,
                ratio=ratio,
                weight=weight,
                warm_up=warm_up,
                cool_down=cool_down,
                cfg=cfg,
                limit=limit or None,
                update_rule=update_rule,
                k=Motion.of(motion_rep).representations[0].k,
            )
        else:
            scheduler = comfy_sampling.SCHEDULER
        sigmas = comfy_sampling.sigmas_for(
            model, scheduler=scheduler, sampler=sampler_name, preset=chosen, denoise=denoise
        )
        blocks = weights_of(block_weights)
        guidance = MotionGuidance.of(
            motion_rep, chosen, curve=curve, reuse=reuse, block_weights=blocks, semantics=semantics
        )
        reports: list[RunSummary] = []
        latent = comfy_sampling.sample(
            with_guidance(model, guidance, memory=memory, on_end=reports.append),
            sampler=sampler_name,
            sigmas=sigmas,
            cfg=chosen.cfg,
            positive=positive,
            negative=negative,
            latent=latent_image,
            seed=seed,
        )
        said = "\n".join(map(str, reports))
        show(cls.hidden.unique_id, said)
        return io.NodeOutput(latent, said, plot_of(reports))
