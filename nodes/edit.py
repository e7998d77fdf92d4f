"""A motion in, another one out: in other frames, another place, under a mask, beside others; and strength curves."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from ..motionclone_core.editing import REPEATS, Repeat, masked, placed, retimed, timing
from ..motionclone_core.mixing import Motion, MotionPart, edited
from ..motionclone_core.representation import latent_frames
from ..motionclone_core.schedule import INTERPOLATIONS, Interpolation, Keyframe, StrengthCurve
from ..motionclone_core.series import AnyReading
from .sockets import MotionCurve, MotionRep, node_schema

AnyMotion = AnyReading | Motion


def _motion_input() -> Any:
    return MotionRep.Input("motion_rep", tooltip="The motion.")


def _motion_output(tooltip: str) -> Any:
    return MotionRep.Output("motion_rep", display_name="motion_rep", tooltip=tooltip)


class RetimeMotion(io.ComfyNode):
    """A motion over another number of frames: faster, slower, backwards, in a loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneRetimeMotion",
            display_name="Retime Motion",
            description="Fits a motion to another number of frames. Every frame follows the nearest one of the "
            "reference; context windows are read by themselves.",
            search_aliases=["motion speed", "slow motion", "loop motion", "reverse motion", "ping-pong"],
            inputs=[
                _motion_input(),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=2,
                    max=4096,
                    tooltip="Of the video that is to be sampled; 4 n + 1 for CogVideoX and Wan.",
                ),
                io.Float.Input(
                    "speed",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="2 is twice as fast as the reference, 0.5 half as fast.",
                ),
                io.Float.Input(
                    "offset",
                    default=0.0,
                    min=-4096.0,
                    max=4096.0,
                    step=1.0,
                    round=0.001,
                    tooltip="Where in the motion the video begins, in frames.",
                ),
                io.Boolean.Input("reverse", default=False, tooltip="Play it backwards."),
                io.Combo.Input(
                    "repeat",
                    options=list(REPEATS),
                    default="hold",
                    tooltip="What follows the end of the motion: it holds still, begins anew, or runs back.",
                ),
            ],
            outputs=[_motion_output("The motion over these frames.")],
        )

    @classmethod
    def execute(
        cls, motion_rep: AnyMotion, frames: int, speed: float, offset: float, reverse: bool, repeat: Repeat
    ) -> io.NodeOutput:
        """See the class."""
        group = Motion.of(motion_rep).representations[0].provenance.group
        wanted, begin = latent_frames(frames, group), offset / group
        follows = timing(motion_rep.frames, wanted, speed=speed, offset=begin, reverse=reverse, repeat=repeat)
        return io.NodeOutput(edited(motion_rep, partial(retimed, follows=follows)))


class PlaceMotion(io.ComfyNode):
    """A motion moved and scaled inside the frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        way = {"default": 0.0, "min": -2.0, "max": 2.0, "step": 0.05, "round": 0.0001}
        return node_schema(
            node_id="MotionClonePlaceMotion",
            display_name="Place Motion",
            description="Moves and scales a motion inside the frame. What lies outside it is not guided.",
            search_aliases=["move motion", "scale motion", "shift motion", "reposition"],
            inputs=[
                _motion_input(),
                io.Float.Input("x", tooltip="To the right, in widths of the frame.", **way),
                io.Float.Input("y", tooltip="Down, in heights of the frame.", **way),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.05,
                    max=20.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="About the middle of the frame; 0.5 is half as large.",
                ),
            ],
            outputs=[_motion_output("The motion in its new place.")],
        )

    @classmethod
    def execute(cls, motion_rep: AnyMotion, x: float, y: float, scale: float) -> io.NodeOutput:
        """See the class."""
        return io.NodeOutput(edited(motion_rep, partial(placed, x=x, y=y, scale=scale)))


class MaskMotion(io.ComfyNode):
    """A motion in a part of the frame alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneMaskMotion",
            display_name="Mask Motion",
            description="Guides a part of the frame alone. Inverted it leaves that part out: the camera's motion "
            "without the subject's.",
            search_aliases=["regional motion", "motion mask", "camera motion without subject"],
            inputs=[
                _motion_input(),
                io.Mask.Input(
                    "mask",
                    tooltip="Of the new video's frame, in any size: one mask, or one for each frame.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Guide where the mask is not."),
                io.Float.Input(
                    "feather",
                    default=0.03,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="How soft the edge is, as a part of the height; 0 is hard.",
                ),
            ],
            outputs=[_motion_output("The motion under the mask.")],
        )

    @classmethod
    def execute(cls, motion_rep: AnyMotion, mask: torch.Tensor, invert: bool, feather: float) -> io.NodeOutput:
        """See the class."""
        return io.NodeOutput(edited(motion_rep, partial(masked, mask=mask, invert=invert, feather=feather)))


class CombineMotions(io.ComfyNode):
    """Two motions that lead one video; chain the node for more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        strength = {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.05, "round": 0.0001}
        return node_schema(
            node_id="MotionCloneCombineMotions",
            display_name="Combine Motions",
            description="Lets one video follow two motions, each with its strength, and a curve of it over the steps "
            "if you like. Mask them first if each has its place. Chain this node for more.",
            search_aliases=["mix motions", "blend motions", "several motions", "add motion"],
            inputs=[
                MotionRep.Input("motion_1", tooltip="A motion, or several from another Combine Motions."),
                MotionRep.Input("motion_2", tooltip="Another one."),
                io.Float.Input(
                    "strength_1", tooltip="What the weight is multiplied by for motion 1; 0 is off.", **strength
                ),
                io.Float.Input("strength_2", tooltip="For motion 2.", **strength),
                MotionCurve.Input("curve_1", optional=True, tooltip="The strength of motion 1 over the steps."),
                MotionCurve.Input("curve_2", optional=True, tooltip="The strength of motion 2 over the steps."),
            ],
            outputs=[_motion_output("Both motions.")],
        )

    @classmethod
    def execute(
        cls,
        motion_1: AnyMotion,
        motion_2: AnyMotion,
        strength_1: float,
        strength_2: float,
        curve_1: StrengthCurve | None = None,
        curve_2: StrengthCurve | None = None,
    ) -> io.NodeOutput:
        """See the class."""
        several = ((motion_1, strength_1, curve_1), (motion_2, strength_2, curve_2))
        return io.NodeOutput(Motion(tuple(part for one in several for part in _parts(*one))))


def _parts(motion: AnyMotion, strength: float, curve: StrengthCurve | None) -> list[MotionPart]:
    return [part.stronger(strength, curve) for part in Motion.of(motion).parts]


class MotionStrengthKeyframe(io.ComfyNode):
    """One keyframe of a strength over the steps; chain the node for more."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneStrengthKeyframe",
            display_name="Motion Strength Keyframe",
            description="How strong guidance is at one point of the run. Chain several to draw a curve; it takes the "
            "place of guided steps, warm-up and cool-down.",
            search_aliases=["motion curve", "motion keyframes", "guidance schedule"],
            inputs=[
                io.Float.Input(
                    "at",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="Where in the run: 0 is its first step, 1 its last.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="What the weight is multiplied by there; 0 is off.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="linear",
                    tooltip="To the next keyframe: a straight line, eased at both ends, or held until then.",
                ),
                MotionCurve.Input("curve", optional=True, tooltip="The keyframes so far."),
            ],
            outputs=[MotionCurve.Output("curve", display_name="curve", tooltip="With this keyframe in it.")],
        )

    @classmethod
    def execute(
        cls, at: float, strength: float, interpolation: Interpolation, curve: StrengthCurve | None = None
    ) -> io.NodeOutput:
        """See the class."""
        keyframe = Keyframe(at, strength, interpolation)
        return io.NodeOutput(StrengthCurve((keyframe,)) if curve is None else curve.with_keyframe(keyframe))
