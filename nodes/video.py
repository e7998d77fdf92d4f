"""The node that turns a reference video into the frames whose motion is to be cloned."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..motionclone_core.paths import list_inside, resolve_inside
from ..motionclone_core.video import read_frames
from .sockets import node_schema

_MAX_SIDE = 8192
_MAX_SECONDS = 100_000.0


class LoadReferenceVideo(io.ComfyNode):
    """Evenly spaced frames of a video in ComfyUI's input, output or temp folder.

    A name may carry ComfyUI's annotation, as in ``clip.mp4 [output]``; without one it is looked for in
    the input folder. Names that lead out of that folder are refused.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MotionCloneLoadReferenceVideo",
            display_name="Load Reference Video",
            search_aliases=["motion reference", "video frames", "load video", "video to images", "gif to frames"],
            description="Reads evenly spaced frames of a video, first and last of the part included.",
            inputs=[
                io.Combo.Input(
                    "video",
                    options=_videos_in_input(),
                    upload=io.UploadType.video,
                    tooltip="A video in ComfyUI's input folder; the button uploads one. GIFs work too.",
                ),
                *_part_inputs(),
                *_size_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The chosen frames, in order."),
                io.Float.Output(
                    display_name="fps",
                    tooltip="Frames per second at which the chosen frames play as fast as the video does.",
                ),
                io.Int.Output(
                    display_name="frames", tooltip="How many frames there are; use it for the latent."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, video: str, start: float, length: float, frames: int, width: int, height: int
    ) -> io.NodeOutput:
        clip = read_frames(
            _file_of(video), frames=frames, start=start, duration=length, width=width, height=height
        )
        return io.NodeOutput(torch.from_numpy(clip.images), clip.fps, len(clip.indices))

    @classmethod
    def fingerprint_inputs(cls, video: str, **_: object) -> str:
        """Changes when the file does, so that a replaced video is read again."""
        stat = _file_of(video).stat()
        return f"{stat.st_mtime_ns}:{stat.st_size}"

    @classmethod
    def validate_inputs(cls, video: str | None) -> bool | str:
        if video is None:  # it comes from another node, and is known only when that has run
            return True
        try:
            path = _file_of(video)
        except ValueError as error:
            return str(error)
        if not os.path.isfile(path):
            return f"There is no video {video!r} in {path.parent}: upload it, or choose another one"
        return True


def _part_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "start",
            default=0.0,
            min=0.0,
            max=_MAX_SECONDS,
            step=0.01,
            tooltip="Where the part to use begins, in seconds from the first frame.",
        ),
        io.Float.Input(
            "length",
            default=0.0,
            min=0.0,
            max=_MAX_SECONDS,
            step=0.01,
            tooltip="How many seconds to use; 0 is to the end. About two seconds suit 16 frames.",
        ),
        io.Int.Input(
            "frames",
            default=16,
            min=2,
            max=1024,
            tooltip="How many evenly spaced frames to take. AnimateDiff was trained on 16.",
        ),
    ]


def _size_inputs() -> list[io.Input]:
    def side(name: str, other: str) -> io.Input:
        return io.Int.Input(
            name,
            default=512,
            min=0,
            max=_MAX_SIDE,
            step=8,
            tooltip=f"The {name} in pixels. The picture is scaled to cover the size, and what hangs over is "
            f"cut off on both sides. 0 keeps the video's {name}, or follows the {other} if that is given.",
        )

    return [side("width", "height"), side("height", "width")]


def _videos_in_input() -> list[str]:
    return list_inside(Path(folder_paths.get_input_directory()), _is_video)


def _is_video(name: str) -> bool:
    # ComfyUI counts GIFs as pictures.
    return name.lower().endswith(".gif") or bool(folder_paths.filter_files_content_types([name], ["video"]))


def _file_of(video: str) -> Path:
    """The file of an annotated name; `ValueError` if it lies outside of the folder that it names."""
    if not isinstance(video, str):  # a drop-down's value is not checked by ComfyUI once a node validates it
        raise ValueError(f"{video!r} is not a file name: give the name of a video")
    name, folder = folder_paths.annotated_filepath(video)
    return resolve_inside(Path(folder or folder_paths.get_input_directory()), name)
