#!/usr/bin/env python3
"""Draws what edits of a motion do: one clip of two things, followed as it is, backwards, in part, and put together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from animation import write_animation
from edit_cells import TWO, Clip, EditSetting, cells, clips, region, wanted
from edit_study import sampled
from embedded.drawing import SIZE
from embedded.model import load_model
from embedded.scoring import locate_any
from motionclone_core.visualisation.canvas import write_picture
from motionclone_core.visualisation.sheets import Panel, contact_sheet, enlarged, side_by_side
from motionclone_core.visualisation.tracks import draw_paths

OUTPUT = Path(__file__).parent.parent / "demo_output"
SIDE = 256
SHOWN = (0, 3, 6, 9, 12, 15)
EDITS: dict[str, tuple[EditSetting, str]] = {
    "as read": (TWO, "both things follow"),
    "backwards": (replace(TWO, reverse=True), "Retime Motion"),
    "in part": (cells()["two/first"], "Mask Motion: the other goes its own way"),
    "put together": (cells()["two/each its own"], "Combine Motions: read off two clips"),
}


def panels(clip: Clip, videos: Sequence[NDArray[np.uint8]]) -> list[Panel]:
    """The reference, and what became of it under each edit."""
    scene = clip.reference
    out = [Panel("reference", drawn(scene.render(), scene.paths), "a drawn clip")]
    for (label, (setting, note)), video in zip(EDITS.items(), videos, strict=True):
        asked, found = wanted(clip, setting), locate_any(video, len(scene.things)).paths
        if setting.mask == "first":
            asked = asked[:1]
            video = _framed(video, region(scene, 0, margin=setting.margin, moving=setting.moving).numpy())
        out.append(Panel(label, drawn(video, found, asked), note))
    return out


def drawn(
    video: NDArray[np.uint8],
    paths: NDArray[np.floating],
    asked: NDArray[np.floating] | None = None,
    *,
    side: int = SIDE,
) -> NDArray[np.uint8]:
    """A video with the paths of its things, and those that were asked for, ``side`` pixels wide."""
    return draw_paths(enlarged(video, side), paths, compared=asked, measured_in=(SIZE, SIZE))


def _framed(video: NDArray[np.uint8], mask: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A video, darker where a mask is 0."""
    return np.rint(video * (0.55 + 0.45 * mask[..., None])).astype(np.uint8)


NOTE = "blue: where a thing is; white, dashed: where the edited motion has it; darker: what the mask leaves out"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[3], help="numbers of references of the study of edits")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(arguments)
    model, rows = load_model(), []
    for number in args.clips:
        (clip,) = clips("two", 1, first=number)
        videos = [sampled(model, [clip], setting)[0].video for setting, _ in EDITS.values()]
        views = panels(clip, videos)
        rows.append(side_by_side(views if not rows else [replace(view, label="", caption="") for view in views]))
        write_picture(contact_sheet(views, SHOWN, note=NOTE), args.output / f"edits_{number}.png")
    write_animation(np.concatenate(rows, axis=1), args.output / "edits.gif")


if __name__ == "__main__":
    main()
