"""The list of nodes that ComfyUI is given."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .edit import CombineMotions, MaskMotion, MotionStrengthKeyframe, PlaceMotion, RetimeMotion
from .extract import ExtractMotionRepresentation
from .files import LoadMotionRep, SaveMotionRep, register_folder
from .guide import ApplyMotionGuidance, MotionCloneGuidedKSampler, MotionCloneScheduler
from .invert import InvertReference
from .preview import PreviewMotionRepresentation
from .score import BestMotion, MotionSeeds, ScoreMotion
from .semantics import EncodePromptWithWords, PreviewSemanticMasks, SemanticGuidance
from .video import LoadReferenceVideo


class MotionCloneExtension(ComfyExtension):
    """Every node of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """See the class."""
        register_folder()  # before a drop-down looks into it; ComfyUI 0.8 calls no on_load
        return [
            LoadReferenceVideo,
            InvertReference,
            ExtractMotionRepresentation,
            ApplyMotionGuidance,
            MotionCloneScheduler,
            MotionCloneGuidedKSampler,
            RetimeMotion,
            PlaceMotion,
            MaskMotion,
            CombineMotions,
            MotionStrengthKeyframe,
            PreviewMotionRepresentation,
            SaveMotionRep,
            LoadMotionRep,
            ScoreMotion,
            MotionSeeds,
            BestMotion,
            EncodePromptWithWords,
            SemanticGuidance,
            PreviewSemanticMasks,
        ]
