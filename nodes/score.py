"""Reference and result in, scores out; and the best of several results."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..motionclone_core.hosts.comfy_clip import clip_score
from ..motionclone_core.score import (
    CRITERIA,
    MotionScore,
    NotFiniteError,
    TrackedVideo,
    best_of,
    comparison,
    require_same_length,
    require_seeds,
    score_motion,
)
from ..motionclone_core.visualisation.agreement import draw_tracks
from .animations import animated
from .sockets import node_schema

_MAX_SEED = 0xFFFFFFFFFFFFFFFF
_FPS = 8.0  # AnimateDiff's


def _tracked(images: torch.Tensor, name: str) -> TrackedVideo:
    return TrackedVideo.of(images.numpy(force=True), name)


def _float_output(name: str, tooltip: str) -> io.Float.Output:
    return io.Float.Output(name, display_name=name, tooltip=tooltip)


class ScoreMotion(io.ComfyNode):
    """How well a video follows its reference, in numbers and in a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneScore",
            display_name="Motion Score",
            description="Says how well a video follows its reference: how alike they move, how far their paths are "
            "apart, how smooth the video is. With CLIP it says too how well the video shows the prompt.",
            search_aliases=["motion fidelity", "evaluate video", "clip score", "video metrics"],
            is_output_node=True,
            inputs=_score_inputs(),
            outputs=_score_outputs(),
        )

    @classmethod
    def execute(
        cls, reference: torch.Tensor, video: torch.Tensor, prompt: str = "", clip: Any = None, clip_vision: Any = None
    ) -> io.NodeOutput:
        """See the class."""
        ours, theirs = _tracked(reference, "the reference"), _tracked(video, "the video")
        require_same_length(ours, theirs, "the video")
        score = score_motion(ours, theirs, clip=clip_score(video, clip=clip, clip_vision=clip_vision, prompt=prompt))
        captions = (
            "one colour: moves alike, white: alone",
            f"fidelity {score.motion_fidelity:.2f}, distance {score.trajectory_distance:.3f}",
        )
        drawn = draw_tracks(ours.frames, theirs.frames, (ours.tracks, theirs.tracks), captions=captions)
        tracks = torch.from_numpy(drawn).float() / 255
        report = score.report()
        return io.NodeOutput(*_numbers(score), report, tracks, ui=_shown(report, tracks))


def _score_inputs() -> list[io.Input]:
    return [
        io.Image.Input("reference", tooltip="The frames whose motion was cloned."),
        io.Image.Input("video", tooltip="The result: as many frames, in any size."),
        io.String.Input(
            "prompt",
            default="",
            multiline=True,
            optional=True,
            tooltip="What the video should show, for CLIP. It reads the first 77 tokens.",
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Reads the prompt. An SD 1.5 checkpoint's cannot: load openai/clip-vit-large-patch14's file.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="Sees the frames: the vision model of the same CLIP. Alone it gives the consistency.",
        ),
    ]


def _score_outputs() -> list[io.Output]:
    return [
        _float_output("motion_fidelity", "How alike they move: 1 the same, 0 nothing in common, -1 opposite."),
        _float_output("trajectory_distance", "How far the paths are apart, in diagonals of the frame; 0 is best."),
        _float_output(
            "motion_magnitude",
            "How far a point of the video moves from frame to frame, in diagonals. Nearly 0 in a frozen video.",
        ),
        _float_output("temporal_consistency", "How alike neighbouring frames are, without CLIP; 1 in a frozen video."),
        _float_output(
            "textual_alignment", "Mean cosine of the frames and the prompt. Without CLIP what uses it does not run."
        ),
        _float_output(
            "clip_consistency", "Mean cosine of neighbouring frames. Without CLIP Vision what uses it does not run."
        ),
        io.String.Output("report", display_name="report", tooltip="All scores as a table."),
        io.Image.Output(
            "tracks", display_name="tracks", tooltip="Both videos with their tracks: do they lie on what moves?"
        ),
    ]


def _numbers(score: MotionScore) -> tuple[Any, ...]:
    ours = (score.motion_fidelity, score.trajectory_distance, score.motion_magnitude, score.temporal_consistency)
    asked = (
        (score.clip.textual_alignment, "textual_alignment was not measured: connect clip and clip_vision"),
        (score.clip.consistency, "clip_consistency was not measured: connect clip_vision"),
    )
    # A number in its place, 0 or nan, would be taken for a score by whatever compares it.
    return (*ours, *(ExecutionBlocker(message) if value is None else value for value, message in asked))


def _shown(report: str, tracks: torch.Tensor) -> dict[str, Any]:
    """The report and the moving tracks below the node."""
    return {"text": (report,), **animated(tracks, _FPS).as_dict()}


class MotionSeeds(io.ComfyNode):
    """Several seeds; what they are wired to runs once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneSeeds",
            display_name="Motion Seeds",
            description="Seeds in a row, as a list: wired to a sampler's seed they run it once for each, and all that "
            "follows too, up to Best Motion.",
            search_aliases=["best of n", "seed list", "several seeds"],
            inputs=[
                io.Int.Input(
                    "seed", default=0, min=0, max=_MAX_SEED, control_after_generate=True, tooltip="The first one."
                ),
                io.Int.Input("count", default=4, min=1, max=64, tooltip="How many runs: each takes its full time."),
            ],
            outputs=[
                io.Int.Output("seeds", display_name="seeds", is_output_list=True, tooltip="For a sampler's seed.")
            ],
        )

    @classmethod
    def execute(cls, seed: int, count: int) -> io.NodeOutput:
        """See the class."""
        return io.NodeOutput([(seed + i) % (_MAX_SEED + 1) for i in range(count)])


class BestMotion(io.ComfyNode):
    """The one of several videos that follows the reference best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneBest",
            display_name="Best Motion",
            description="Takes several runs, as Motion Seeds makes them, and hands on the one that follows the "
            "reference best. One that hardly moves, or has black frames, is taken only if there is no better one.",
            search_aliases=["best of n", "pick seed", "choose best video"],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("reference", tooltip="The frames whose motion was cloned."),
                io.Image.Input("videos", tooltip="The runs: VAE Decode behind a sampler that Motion Seeds drives."),
                io.Combo.Input(
                    "by",
                    options=list(CRITERIA),
                    default="motion fidelity",
                    tooltip="motion fidelity: moves most alike, anywhere in the frame. trajectory distance: paths lie "
                    "nearest. both: the sum of the places in both.",
                ),
                io.Int.Input(
                    "seeds", optional=True, force_input=True, tooltip="From the same Motion Seeds, to name the best."
                ),
            ],
            outputs=[
                io.Image.Output("video", display_name="video", tooltip="The best run."),
                io.Int.Output("index", display_name="index", tooltip="Which it is, counted from 0."),
                io.Int.Output("seed", display_name="seed", tooltip="Its seed, if the seeds are connected."),
                io.String.Output("report", display_name="report", tooltip="The scores of all."),
            ],
        )

    @classmethod
    def execute(
        cls, reference: list[torch.Tensor], videos: list[torch.Tensor], by: list[Any], seeds: list[int] | None = None
    ) -> io.NodeOutput:
        """See the class."""
        if len(reference) != 1:
            raise ValueError(f"{len(reference)} references: the runs are compared with 1")
        require_seeds(seeds, len(videos))
        followed = _tracked(reference[0], "the reference")
        scores = [_scored(followed, video, f"video {i}") for i, video in enumerate(videos)]
        best = best_of(scores, by[0])
        report = comparison(scores, best, seeds)
        seed = ExecutionBlocker("the best seed is not known: connect seeds") if seeds is None else seeds[best]
        return io.NodeOutput(videos[best], best, seed, report, ui=ui.PreviewText(report))


def _scored(reference: TrackedVideo, images: torch.Tensor, name: str) -> MotionScore | None:
    """None for a run that overflowed, which must not cost the others."""
    try:
        video = _tracked(images, name)
    except NotFiniteError:
        return None
    require_same_length(reference, video, name)
    return score_motion(reference, video)
