#!/usr/bin/env python3
"""Clones motions with the embedded model, and writes an animation, contact sheets and a table of scores.

Everything that it needs is in the repository. It draws its references, and then the scores are exact; with
--video it reads the motion off that file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from animation import write_animation
from embedded.drawing import COLOURS, FRAMES, GROUNDS, PATTERNS, SHAPES, SIZE, Scene, random_scene
from embedded.measuring import FAST, PUBLISHED, Setting, generate, initial_noise, read_motion, seed_for
from embedded.model import EmbeddedModel, ModelFileError, load_model
from embedded.scoring import caption_correct, locate
from motionclone_core.metrics import (
    Tracks,
    motion_fidelity,
    motion_magnitude,
    path_error,
    temporal_consistency,
    track_points,
    velocity_cosine,
)
from motionclone_core.representation import MotionRepresentation
from motionclone_core.video import TooFewFramesError, VideoError, read_frames
from motionclone_core.visualisation.canvas import write_picture
from motionclone_core.visualisation.motion import guided_intensity, heat_map
from motionclone_core.visualisation.sheets import Panel, contact_sheet, enlarged, side_by_side
from motionclone_core.visualisation.tracks import draw_paths

Video = NDArray[np.uint8]
OUTPUT = Path(__file__).parent.parent / "demo_output"
PRESETS = {"camera": PUBLISHED, "fast": FAST}
SIDE = 256
CAPTION = "red circle slate plain"
SHOWN = (0, 3, 6, 9, 12, 15)
# Motion and seed of drawn references, and what to show instead.
DRAWN = (
    ("curved", 2, "red cross slate plain"),
    ("straight", 6, "yellow circle plum dots"),
    ("camera", 3, "blue triangle teal gradient"),
)


@dataclass(frozen=True)
class Clip:
    """One reference, and what to show instead.

    Attributes:
        video: of the reference, ``[f, h, w, 3]``.
        caption: what it shows, or its file's name.
        target: its caption is to be shown; its motion is not used.
        paths: the reference's exact paths, ``[o, f, 2]``, if they are known.
    """

    video: Video
    caption: str
    target: Scene
    paths: NDArray[np.float32] | None = None


def drawn_clips() -> list[Clip]:
    """The references that the demo draws."""
    clips = []
    for motion, seed, words in DRAWN:
        scene = random_scene(np.random.default_rng(seed), motion=motion, objects=1)
        clips.append(Clip(scene.render(), scene.caption, scene_of(words.split()), scene.paths))
    return clips


def video_clip(path: Path, words: Sequence[str]) -> Clip:
    """A video file as a reference; the frames of a very short one are repeated.

    Raises:
        FileNotFoundError, VideoError: see `motionclone_core.video.read_frames`.
        ValueError: the words are no caption.
    """
    target, size = scene_of(words), {"width": SIZE, "height": SIZE}
    try:
        images = read_frames(path, frames=FRAMES, **size).images
    except TooFewFramesError as error:
        images = read_frames(path, frames=error.available, **size).images
        # Each is shown for as long as the video would show it.
        images = images[np.arange(FRAMES) * len(images) // FRAMES]
    return Clip(np.rint(images * 255).astype(np.uint8), path.name, target)


def scene_of(words: Sequence[str]) -> Scene:
    """A scene that shows what four words say: colour, shape, ground and pattern.

    Raises:
        ValueError: a word is not one of those.
    """
    kinds = {"colour": tuple(COLOURS), "shape": SHAPES, "ground": tuple(GROUNDS), "pattern": PATTERNS}
    if len(words) != len(kinds):
        raise ValueError(f"the caption has {len(words)} words, it needs {len(kinds)}: {', '.join(kinds)}")
    for word, (kind, known) in zip(words, kinds.items(), strict=True):
        if word not in known:
            raise ValueError(f"the {kind} {word!r} is unknown: choose one of {', '.join(known)}")
    colour, shape, ground, pattern = words
    scene = random_scene(np.random.default_rng(0), motion="still", objects=1)
    thing = replace(scene.things[0], colour=colour, shape=shape)
    return replace(scene, things=(thing,), ground=ground, pattern=pattern)


# --- running ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """One clip's results."""

    clip: Clip
    motion: MotionRepresentation
    unguided: Video
    guided: Video


def clone(model: EmbeddedModel, clips: Sequence[Clip], setting: Setting, seed: int) -> list[Shown]:
    """Extract every clip's motion, and sample its target with and without it."""
    motions = [
        read_motion(model, clip.video, setting, seed=seed_for(i, seed, "extraction"), source=clip.caption)
        for i, clip in enumerate(tqdm(clips, desc="extract "))
    ]
    captions, noise = [clip.target.words for clip in clips], initial_noise(range(len(clips)), seed)
    videos = []
    for name, used in (("unguided", ()), ("guided  ", motions)):
        with tqdm(total=setting.steps, desc=name) as bar:
            videos.append(generate(model, captions, noise, setting, motions=used, on_step=bar.update))
    return [
        Shown(clip, motion, unguided.video, guided.video)
        for clip, motion, unguided, guided in zip(clips, motions, *videos, strict=True)
    ]


def table(results: Sequence[Shown]) -> str:
    """The scores of every clip, unguided and guided."""
    lines = [f"{'':{WIDTH + 10}}" + "".join(f"{name:>12}" for name in _COLUMNS)]
    for shown in tqdm(results, desc="score   "):
        reference = track_points(shown.clip.video)
        for name, video in (("unguided", shown.unguided), ("guided", shown.guided)):
            cells = "".join(f"{value:>12}" for value in _scores(shown.clip, video, reference))
            lines.append(f"{shown.clip.caption[:WIDTH]:{WIDTH}} {name:9}{cells}")
    return "\n".join(lines)


WIDTH = 36
_COLUMNS = ("path error", "velocity", "fidelity", "magnitude", "consistency", "caption")


def _scores(clip: Clip, video: Video, reference: Tracks) -> list[str]:
    tracks = track_points(video)
    seen = caption_correct(video, clip.target)
    right = [*seen.colour_right, *seen.shape_right, seen.ground_right]
    exact = ["-", "-"]
    if clip.paths is not None:
        found = locate(video, clip.target).paths
        exact = [f"{path_error(found, clip.paths):.1f} px", f"{velocity_cosine(found, clip.paths):.2f}"]
    general = [motion_fidelity(tracks, reference), 100 * motion_magnitude(tracks), temporal_consistency(video)]
    shares = [f"{general[0]:.2f}", f"{general[1]:.2f} %", f"{general[2]:.3f}"]
    return [*exact, *shares, f"{sum(right)}/{len(right)}"]


# --- pictures ---------------------------------------------------------------------------------------------


def panels(shown: Shown) -> list[Panel]:
    """Reference, motion, unguided and guided, with their paths."""
    clip = shown.clip
    found = {name: locate(video, clip.target).paths for name, video in _results(shown).items()}
    paths = clip.paths if clip.paths is not None else longest_paths(track_points(clip.video))
    reference = draw_paths(enlarged(clip.video, SIDE), paths, measured_in=(SIZE, SIZE))
    motion = heat_map(guided_intensity(shown.motion), enlarged(clip.video, SIDE))
    out = [Panel("reference", reference, clip.caption), Panel("its motion", motion, "mean kept attention")]
    for name, video in _results(shown).items():
        drawn = draw_paths(enlarged(video, SIDE), found[name], compared=clip.paths, measured_in=(SIZE, SIZE))
        out.append(Panel(name, drawn, clip.target.caption))
    return out


def longest_paths(tracks: Tracks, *, count: int = 4, apart: float = 8.0) -> NDArray[np.float32]:
    """The tracks that go farthest of those that are visible all the time, ``[o, f, 2]``.

    Args:
        tracks: of the whole video.
        count: the most to take.
        apart: pixels between the places where they begin, at the least.
    """
    whole = tracks.points[tracks.visible.all(axis=1)]
    chosen: list[NDArray[np.float32]] = []
    for path in sorted(whole, key=lambda path: -np.linalg.norm(np.diff(path, axis=0), axis=1).sum()):
        if len(chosen) < count and all(np.linalg.norm(path[0] - other[0]) >= apart for other in chosen):
            chosen.append(path)
    return np.array(chosen, np.float32).reshape(-1, tracks.points.shape[1], 2)


def _results(shown: Shown) -> dict[str, Video]:
    return {"unguided": shown.unguided, "guided": shown.guided}


def write_pictures(results: Sequence[Shown], folder: Path) -> list[Path]:
    """The animation of all clips, and one contact sheet for each."""
    rows, written = [], []
    for i, shown in enumerate(tqdm(results, desc="pictures")):
        views = panels(shown)
        rows.append(side_by_side(views))
        written.append(folder / f"contact_sheet_{i + 1}.png")
        note = _VIDEO_NOTE if shown.clip.paths is None else _NOTE
        write_picture(contact_sheet(views, SHOWN, note=note), written[-1])
    animation = folder / "motion_cloning.gif"
    write_animation(np.concatenate(rows, axis=1), animation)
    return [animation, *written]


_NOTE = "blue: where the thing is; white, dashed: where it is in the reference"
_VIDEO_NOTE = "blue: in the reference, points seen in every frame, if there are any; below, where the thing is"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="reference video; drawn ones if this is left out")
    parser.add_argument("--caption", help=f"what to show instead of --video's; {CAPTION!r} if this is left out")
    parser.add_argument("--preset", choices=PRESETS, default="fast")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, from 0")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: choose 0 or more")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file: give a folder")
    if args.caption is not None and not args.video:
        parser.error(f"--caption {args.caption!r} is for --video: drawn references have captions of their own")
    try:
        words = (CAPTION if args.caption is None else args.caption).split()
        clips = [video_clip(args.video, words)] if args.video else drawn_clips()
        model = load_model()
    except (FileNotFoundError, VideoError, ModelFileError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"the folder {args.output} cannot be made ({error}): give another with --output", file=sys.stderr)
        return 1
    began = time.perf_counter()
    results = clone(model, clips, PRESETS[args.preset], args.seed)
    print(table(results), flush=True)
    written = write_pictures(results, args.output)
    print(f"{time.perf_counter() - began:.0f} s, {PRESETS[args.preset].steps} steps")
    print("\n".join(f"made {path}" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
