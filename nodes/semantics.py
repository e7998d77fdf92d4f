"""Words of a prompt, and guidance by where they lie."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..motionclone_core.hosts.comfy_words import encoded
from ..motionclone_core.mixing import Motion
from ..motionclone_core.semantics import (
    DEFAULT_SIGMA,
    DEFAULT_THRESHOLD,
    DEFAULT_WEIGHTS,
    Semantics,
    Words,
)
from ..motionclone_core.series import AnyReading
from ..motionclone_core.taps import weights_of
from ..motionclone_core.visualisation.preview import as_video
from ..motionclone_core.visualisation.regions import regions_preview
from .animations import animated
from .sockets import MotionRep, MotionSemantics, MotionWords, node_schema


class EncodePromptWithWords(io.ComfyNode):
    """CLIP Text Encode that also says where chosen words stand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneWords",
            display_name="Encode Prompt with Words",
            description="CLIP Text Encode, and the places of words in the prompt: of the subject that moves. For "
            "Extract Motion Representation and Semantic Guidance.",
            search_aliases=["clip text encode", "prompt words", "subject token"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text model."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words of the prompt, separated by commas: what moves, such as cat or sports car. Empty is "
                    "the whole frame, for the camera's motion.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The encoded prompt."),
                MotionWords.Output("words", display_name="words", tooltip="Where the words stand in it."),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, words: str) -> io.NodeOutput:
        """See the class."""
        return io.NodeOutput(*encoded(clip, text, words))


def _threshold_input(name: str, whose: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=DEFAULT_THRESHOLD,
        min=0.0,
        max=1.0,
        step=0.05,
        round=0.0001,
        tooltip=f"Above it, in attention to the words from 0 to 1, lies the foreground of {whose}. 0.3 as published.",
    )


class SemanticGuidance(io.ComfyNode):
    """What pulls the look of a guided video, and its layout, to an unguided one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneSemanticGuidance",
            display_name="Semantic Guidance",
            description="The first version's location-aware guidance: an unguided video of the same seed and prompt is "
            "sampled alongside, and what it shows of the subject is put where the reference's subject is. A guided "
            "step takes up to twice as long.",
            search_aliases=["location-aware semantic guidance", "appearance guidance", "motionclone first version"],
            inputs=[
                MotionWords.Input(
                    "words",
                    tooltip="Of the new prompt, from Encode Prompt with Words; its conditioning must be the positive "
                    "one. Without words the whole frame counts.",
                ),
                io.String.Input(
                    "weights",
                    default=DEFAULT_WEIGHTS,
                    tooltip="How strongly each block is pulled. The motion must hold these blocks: list them in "
                    "Extract Motion Representation.",
                ),
                io.Float.Input(
                    "alone",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.0001,
                    tooltip="The part of the guided steps, the last ones, in which this guides alone and the motion "
                    "rests. 0.5 as published; 0 is none.",
                ),
                _threshold_input("reference_threshold", "the reference"),
                _threshold_input("appearance_threshold", "the new subject"),
                io.Float.Input(
                    "sigma",
                    default=DEFAULT_SIGMA,
                    min=0.1,
                    max=1000.0,
                    step=0.5,
                    round=0.001,
                    tooltip="How far the reference's foreground reaches from its middle, in cells of 32 pixels. 5 as "
                    "published.",
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="In place of the reference's words: where the subject is to move, one mask or one for each "
                    "frame, in any size.",
                ),
                io.Mask.Input(
                    "appearance_mask",
                    optional=True,
                    tooltip="In place of the new words: where the subject is in the unguided video.",
                ),
            ],
            outputs=[
                MotionSemantics.Output(
                    "semantics",
                    display_name="semantics",
                    tooltip="For Apply Motion Guidance and MotionClone Guided KSampler.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        words: Words,
        weights: str,
        alone: float,
        reference_threshold: float,
        appearance_threshold: float,
        sigma: float,
        reference_mask: torch.Tensor | None = None,
        appearance_mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """See the class."""
        semantics = Semantics(
            words,
            weights_of(weights),
            alone=alone,
            reference_threshold=reference_threshold,
            appearance_threshold=appearance_threshold,
            sigma=sigma,
            reference_mask=_with_frames(reference_mask),
            appearance_mask=_with_frames(appearance_mask),
        )
        return io.NodeOutput(semantics)


def _with_frames(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK as ``[f, H, W]``: some nodes leave the frames out."""
    return mask[None] if mask is not None and mask.ndim == 2 else mask


class PreviewSemanticMasks(io.ComfyNode):
    """Where the reference's subject is, over the reference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionClonePreviewMasks",
            display_name="Preview Semantic Masks",
            description="Shows where the words of a reference were found: what Semantic Guidance takes for its "
            "foreground. The mask can be painted over and handed back as reference_mask.",
            search_aliases=["show mask", "word mask", "cross-attention mask", "foreground"],
            is_output_node=True,
            inputs=[
                MotionRep.Input("motion_rep", tooltip="A motion that was extracted with words."),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=1.0,
                    max=60.0,
                    step=1.0,
                    round=0.001,
                    tooltip="How fast the node plays the pictures.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The frames that the motion was read off, in any size; or one image for all. Empty is a "
                    "dark ground.",
                ),
                MotionSemantics.Input(
                    "semantics",
                    optional=True,
                    tooltip="Its threshold, sigma and reference_mask. Empty is as published.",
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
                    "foreground",
                    display_name="foreground",
                    tooltip="How much each place counts, 0 to 1, in the images' size.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        motion_rep: AnyReading | Motion,
        fps: float,
        images: torch.Tensor | None = None,
        semantics: Semantics | None = None,
        timestep: int = -1,
    ) -> io.NodeOutput:
        """See the class."""
        reference = None if images is None else as_video(images)
        chosen = semantics or Semantics(Words(), {})
        shown = regions_preview(motion_rep, chosen, reference, timestep=None if timestep < 0 else timestep)
        pictures = torch.from_numpy(shown.video).float() / 255
        return io.NodeOutput(pictures, torch.from_numpy(shown.foreground), ui=animated(pictures, fps))
