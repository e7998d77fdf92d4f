"""A motion as pictures."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..motionclone_core.mixing import Motion
from ..motionclone_core.series import AnyReading
from ..motionclone_core.visualisation.preview import as_video, preview
from .animations import animated
from .sockets import MotionRep, node_schema


class PreviewMotionRepresentation(io.ComfyNode):
    """Where a motion guides, and which way, over the reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionClonePreviewMotion",
            display_name="Preview Motion Representation",
            description="Shows what a motion will guide: hot where something moves, with arrows where it can be told "
            "which way. Retimed, placed, masked and combined motions are shown as they guide.",
            search_aliases=["show motion", "motion heat map", "visualize motion", "motion arrows"],
            is_output_node=True,
            inputs=[
                MotionRep.Input("motion_rep", tooltip="The motion, or several from Combine Motions."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The frames that the motion was read off, in any size; or one image for all. Empty is a "
                    "dark ground.",
                ),
                io.String.Input(
                    "taps",
                    default="*",
                    tooltip="Which layers to show, separated by commas: * is all that the motion holds, up_blocks.1 a "
                    "block, up_blocks.1.motion.0.attention.1 one layer.",
                ),
                io.Boolean.Input(
                    "arrows",
                    default=True,
                    tooltip="Draw which way things move, and about how far in three frames, somewhat short. Where the "
                    "motion does not tell, there is no arrow.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="Of the hottest colour over the images.",
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=1.0,
                    max=60.0,
                    step=1.0,
                    round=0.001,
                    tooltip="How fast the node plays the pictures.",
                ),
                io.Int.Input(
                    "timestep",
                    default=-1,
                    min=-1,
                    max=999,
                    optional=True,
                    tooltip="Of a motion read at several noise levels: show the reading nearest to this timestep. -1 "
                    "is the one in the middle.",
                ),
            ],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="A picture for each frame of the motion."),
                io.Mask.Output(
                    "intensity",
                    display_name="intensity",
                    tooltip="How much each place moves, 0 to 1, in the images' size.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        motion_rep: AnyReading | Motion,
        taps: str,
        arrows: bool,
        opacity: float,
        fps: float,
        images: torch.Tensor | None = None,
        timestep: int = -1,
    ) -> io.NodeOutput:
        """See the class."""
        reference = None if images is None else as_video(images)
        at = None if timestep < 0 else timestep
        shown = preview(motion_rep, reference, taps=taps, arrows=arrows, opacity=opacity, timestep=at)
        pictures = torch.from_numpy(shown.video).float() / 255
        return io.NodeOutput(pictures, torch.from_numpy(shown.heat), ui=animated(pictures, fps))
