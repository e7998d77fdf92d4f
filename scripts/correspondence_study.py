#!/usr/bin/env python3
"""How well arrows tell which way things move, on drawn clips; writes docs/CORRESPONDENCE.md and a picture.

Clips are read by the embedded model, and an estimate is held against their exact motion. Settings were chosen on
references 64 to 111 and 32 still clips; what is written is measured on references 0 to 15 and other still clips.

Shapes used here:
    f   frames      H, W   pixels      h, w   cells of the taps' grid
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from embedded.drawing import OUTLINES, Scene, random_scene
from embedded.measuring import FAST, held_out_cases, read_motion, seed_for
from embedded.model import EmbeddedModel, load_model
from motionclone_core.correspondence import ENOUGH, correspondence
from motionclone_core.representation import MotionRepresentation
from motionclone_core.visualisation.canvas import write_picture
from motionclone_core.visualisation.motion import guided_intensity
from motionclone_core.visualisation.preview import preview
from motionclone_core.visualisation.sheets import Panel, contact_sheet, enlarged

ROOT = Path(__file__).parent.parent
PAGE, PICTURE = ROOT / "docs" / "CORRESPONDENCE.md", ROOT / "docs" / "pictures" / "correspondence.png"
REFERENCES, STILLS = range(16), range(100, 116)
KEPT = (1, 4)
STILL_SEED = 99
MOVES = 0.1  # pixels per frame, from which on something moves
COVERED = 0.1  # of a cell, from which on a thing is in it
SHOWN, FRAMES_SHOWN, SIDE = (1, 2, 3, 5), (2, 5, 8, 11), 256

Array = NDArray[np.float64]
# Displacement [f - 1, h, w, 2] in shares of the frame and confidence [f - 1, h, w].
Estimate = tuple[NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True)
class Clip:
    """One clip and what was read off it, by the entries kept.

    Attributes:
        kind: of motion.
        scene: what it shows.
        motions: by k.
    """

    kind: str
    scene: Scene
    motions: dict[int, MotionRepresentation]


def read_clips(model: EmbeddedModel, scenes: Sequence[tuple[int, str, Scene]]) -> list[Clip]:
    """Read clips, each a number that decides the noise, a kind and a scene."""
    clips = []
    for number, kind, scene in tqdm(scenes, desc="read"):
        video, seed = scene.render(), seed_for(number, 0, "extraction")
        motions = {k: read_motion(model, video, replace(FAST, k=k), seed=seed) for k in KEPT}
        clips.append(Clip(kind, scene, motions))
    return clips


def moving_scenes(numbers: Sequence[int]) -> list[tuple[int, str, Scene]]:
    """References by their numbers."""
    cases = held_out_cases(max(numbers) + 1, 0)
    return [(i, cases[i].kind, cases[i].reference) for i in numbers]


def still_scenes(numbers: Sequence[int]) -> list[tuple[int, str, Scene]]:
    """Clips in which nothing moves, by numbers."""
    rngs = [(i, np.random.default_rng((STILL_SEED, i))) for i in numbers]
    return [(i, "still", random_scene(rng, motion="still", objects=1)) for i, rng in rngs]


# --- what is true -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """Exact motion in the cells of a grid.

    Attributes:
        velocity: ``[f - 1, h, w, 2]``, pixels per frame, of what moves in the cell: the mean over its part of things,
            or over all of the cell if the camera moves.
        moving: ``[f - 1, h, w]``, whether something in the cell moves.
    """

    velocity: Array
    moving: NDArray[np.bool_]


def truth(scene: Scene, grid: tuple[int, int]) -> Truth:
    """The exact motion of a scene."""
    flow, thing = _flow(scene)
    camera = bool(np.ptp(scene.camera.slide) > 0 or np.ptp(scene.camera.zoom) > 0)
    counted = np.ones_like(thing) if camera else thing
    share = _per_cell(counted[..., None].astype(float), grid)
    velocity = _per_cell(flow * counted[..., None], grid) / np.maximum(share, 1e-9)
    return Truth(velocity, (share[..., 0] >= COVERED) & (np.linalg.norm(velocity, axis=-1) > MOVES))


def _flow(scene: Scene) -> tuple[Array, NDArray[np.bool_]]:
    """Where every pixel goes in the next frame, ``[f - 1, H, W, 2]`` pixels, and whether it shows a thing."""
    axis = np.arange(scene.size, dtype=float)
    at = np.stack(np.meshgrid(axis, axis), axis=-1)[None]
    middle, camera = (scene.size - 1) / 2, scene.camera
    zoom, slide = camera.zoom[:, None, None, None], camera.slide[:, None, None]
    world = (at - middle - slide[:-1]) / zoom[:-1]
    flow = world * zoom[1:] + middle + slide[1:] - at
    on = np.zeros(flow.shape[:3], bool)
    for thing, path, radius in zip(scene.things, scene.paths, scene.radii, strict=True):
        own = (at - path[:, None, None]) @ _turns(thing.angle)[:, None]  # [f, H, W, 2] in the thing's own axes
        inside = OUTLINES[thing.shape](own[..., 0], own[..., 1], radius[:, None, None])[:-1] < 0
        grown = own[:-1] * (radius[1:] / radius[:-1])[:, None, None, None]
        there = grown @ _turns(thing.angle)[1:, None].swapaxes(-1, -2) + path[1:, None, None]
        flow[inside], on = (there - at)[inside], on | inside
    return flow, on


def _turns(angle: NDArray[np.floating]) -> Array:
    """``[f, 2, 2]``, by which a row vector of the picture becomes one of a thing's own axes."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([c, -s], axis=-1), np.stack([s, c], axis=-1)], axis=-2)


def _per_cell(pixels: Array, grid: tuple[int, int]) -> Array:
    frames, height, width, channels = pixels.shape
    blocks = pixels.reshape(frames, grid[0], height // grid[0], grid[1], width // grid[1], channels)
    return blocks.mean(axis=(2, 4))


# --- estimates --------------------------------------------------------------------------------------------


def by_film(motion: MotionRepresentation) -> Estimate:
    """What the pack draws."""
    found = correspondence(motion)
    return found.displacement, found.confidence


def by_flow(motion: MotionRepresentation) -> Estimate:
    """Farneback's optical flow of the heat map, enlarged to 64 pixels."""
    intensity = guided_intensity(motion)
    low, high = np.percentile(intensity, (5, 99.5))
    levels = np.clip((intensity - low) / (high - low), 0, 1)
    pictures = [cv2.resize((255 * one).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC) for one in levels]
    flows = []
    for now, following in itertools.pairwise(pictures):
        flow = cv2.calcOpticalFlowFarneback(now, following, None, 0.5, 2, 15, 5, 7, 1.5, 0)
        flows.append(cv2.resize(flow, intensity.shape[:0:-1], interpolation=cv2.INTER_AREA) / 64)
    moved = np.stack(flows)
    # The scale of the heat is each clip's own: the plain intensity tells still clips from others.
    return moved, np.linalg.norm(moved, axis=-1) * np.maximum(intensity[:-1] - np.median(intensity), 0)


_AHEAD, _REACH = 3, 2  # frames, and cells along each axis


def by_matching(motion: MotionRepresentation) -> Estimate:
    """The best match of what is kept, values and where they point relative to their frame, three frames on."""
    marks = np.concatenate([_marks(tap.values, tap.indices, tap.grid) for tap in motion.taps.values()])
    frames, height, width = marks.shape[1:]
    padded = np.pad(marks, [(0, 0), (0, 0), (_REACH, _REACH), (_REACH, _REACH)], mode="edge")
    ways = [(dy, dx) for dy in range(-_REACH, _REACH + 1) for dx in range(-_REACH, _REACH + 1)]
    costs = []
    for dy, dx in ways:
        there = padded[:, :, _REACH + dy : _REACH + dy + height, _REACH + dx : _REACH + dx + width]
        cost = ((marks[:, :-_AHEAD] - there[:, _AHEAD:]) ** 2).mean(axis=0)
        costs.append([cv2.GaussianBlur(one, (0, 0), 1.0) for one in cost])
    cost = np.array(costs)
    way = np.array(ways)[cost.argmin(axis=0)][..., ::-1] / np.array([width, height]) / _AHEAD
    better = cost[ways.index((0, 0))] - cost.min(axis=0)
    last = [(0, frames - 1 - len(way))] + [(0, 0)] * 3
    return np.pad(way, last, mode="edge"), np.pad(better, last[:3], mode="edge")


def _marks(values: torch.Tensor, indices: torch.Tensor, grid: tuple[int, int]) -> NDArray[np.float32]:
    """``[marks, f, h, w]``: mean over the heads of the values, and of where they point in frames."""
    weight = values.float()
    frames = weight.shape[2]
    points = indices.float() - torch.arange(frames)[None, None, :, None]
    marks = torch.stack([weight.sum(3).mean(1), (weight * points).sum(3).mean(1) / frames])
    return (marks - marks.median(dim=1, keepdim=True).values).transpose(1, 2).reshape(2, frames, *grid).numpy()


# --- the measurement --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """All cells of some clips, flat: what is estimated and what is true."""

    kind: NDArray[np.str_]
    confidence: Array
    cosine: Array
    length: Array
    moving: NDArray[np.bool_]
    beside: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Cells:
        """Some of them."""
        return Cells(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def measured(clips: Sequence[Clip], k: int, estimate: Callable[[MotionRepresentation], Estimate]) -> Cells:
    """Hold an estimate against the truth."""
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in Cells.__dataclass_fields__}
    for clip in clips:
        moved, confidence = estimate(clip.motions[k])
        true = truth(clip.scene, moved.shape[1:3])
        ours = moved * clip.scene.size
        sizes = np.linalg.norm(ours, axis=-1), np.linalg.norm(true.velocity, axis=-1)
        near = [cv2.dilate(one.astype(np.uint8), np.ones((3, 3))) for one in true.moving]
        values = {
            "kind": np.full(confidence.shape, clip.kind),
            "confidence": confidence,
            "cosine": (ours * true.velocity).sum(-1) / np.maximum(sizes[0] * sizes[1], 1e-9),
            "length": sizes[0] / np.maximum(sizes[1], 1e-9),
            "moving": true.moving,
            "beside": np.stack(near).astype(bool),
        }
        for name, value in values.items():
            columns[name].append(value.ravel())
    return Cells(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _row(name: str, drawn: Cells, frames: int) -> str:
    right = drawn.where(drawn.moving)
    if not len(drawn.kind):
        return f"| {name} | 0 | - | - | - | - |"
    cosine, length = (f"{right.cosine.mean():+.2f}", f"{np.median(right.length):.2f}") if len(right.kind) else "--"
    return (
        f"| {name} | {len(drawn.kind) / frames:.1f} | {cosine} | {drawn.moving.mean():.0%} | {drawn.beside.mean():.0%} "
        f"| {length} |"
    )


HEADER = """| {} | arrows per frame | cosine to the true velocity | on what moves | on or beside it | length |
| --- | --- | --- | --- | --- | --- |"""


def report(moving: Sequence[Clip], still: Sequence[Clip]) -> str:
    """The page."""
    enough = measured_threshold(moving)
    ours = measured(moving, 1, by_film)
    drawn = ours.where(ours.confidence >= enough)
    kinds = sorted({clip.kind for clip in moving})
    pairs = {kind: sum(clip.scene.frames - 1 for clip in moving if clip.kind == kind) for kind in kinds}
    stills = measured(still, 1, by_film)
    false, frames = int((stills.confidence >= enough).sum()), sum(clip.scene.frames - 1 for clip in still)
    rows = [_row(kind, drawn.where(drawn.kind == kind), count) for kind, count in pairs.items()]
    lines = [HEADER.format("motion"), *rows, _row("all", drawn, sum(pairs.values()))]
    return PAGE_TEXT.format(
        table="\n".join(lines),
        others="\n".join(_others(moving, still, len(drawn.kind))),
        chance=ours.moving.mean(),
        found=drawn.moving.sum() / ours.moving.sum(),
        opposite=(drawn.where(drawn.moving).cosine < 0).mean(),
        still_clips=len(still),
        false=false,
        frames=frames,
        highest=stills.confidence.max(),
        enough=enough,
        machine=f"torch {torch.__version__}, {os.cpu_count()} cores {platform.machine()}, {date.today()}",
    )


def measured_threshold(clips: Sequence[Clip]) -> float:
    """The confidence that the pack draws from; also that entries beyond the strongest change nothing."""
    for clip in clips:
        one, more = (correspondence(clip.motions[k]) for k in KEPT)
        if not np.array_equal(one.displacement, more.displacement):
            raise AssertionError("the estimate depends on k: report each")
    return ENOUGH


def _others(moving: Sequence[Clip], still: Sequence[Clip], arrows: int) -> list[str]:
    """Other ways to estimate, each with as many arrows as the one that is drawn."""
    ways = {"the film's flow, as drawn": by_film, "Farneback's flow of the heat map": by_flow,
            "matching what is kept": by_matching}  # fmt: skip
    lines = ["| estimate | k | cosine | on what moves | on or beside it | false arrows on still clips |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name, estimate in ways.items():
        for k in KEPT:
            cells, stills = measured(moving, k, estimate), measured(still, k, estimate)
            least = np.sort(cells.confidence)[-arrows]
            drawn = cells.where(cells.confidence >= least)
            lines.append(
                f"| {name} | {k} | {drawn.where(drawn.moving).cosine.mean():+.2f} | {drawn.moving.mean():.0%} | "
                f"{drawn.beside.mean():.0%} | {(stills.confidence >= least).sum()} |"
            )
    return lines


PAGE_TEXT = """# Which way things move: arrows, measured

What a motion representation keeps says at which frames a position looks alike, and nothing of where things go. But
attention is sharp where something passes, and the sharp place moves: its optical flow is what Preview Motion
Representation draws as arrows (`motionclone_core/correspondence.py` says how).

16 drawn references (0 to 15), read by the embedded model at t_alpha 400 from `up_blocks.1`: a grid of 8 x 8 cells. An
arrow is drawn where the confidence is at least {enough:g}. That and all other settings were chosen on references 64 to
111 and on other still clips than these. Arrows are counted in cells and frames; the cosine is the mean over those that
lie on what moves, a thing that moves or, under a moving camera, the ground; a length of 1 is the true one.

{table}

- By chance {chance:.0%} of arrows would lie on what moves, and the cosine would be 0. {opposite:.1%} of the arrows on
  what moves point backwards.
- On {still_clips} clips in which nothing moves there are {false} arrows in {frames} frames; the highest confidence
  there is {highest:.2f}.
- Arrows are few: {found:.0%} of the cells in which something moves have one. Flat ground under a moving camera, and
  things that grow on the spot, seldom say which way they go.
- They point the right way more surely than they lie exactly on the thing: a cell is as wide as half a thing.
- Only the strongest entry of each row is used, so k makes no difference.

## Other ways

As many arrows as above, those of the highest confidence that each way gives; "false arrows" counts what would be drawn
from the same confidence on the still clips. Less care was taken to set up the other two.

{others}

![heat and arrows of drawn clips](pictures/correspondence.png)

{machine}; `scripts/correspondence_study.py` measures it again.
"""


def picture(clips: Sequence[Clip]) -> NDArray[np.uint8]:
    """Heat and arrows of some clips, and of one in which nothing moves."""
    panels = []
    for clip in clips:
        shown = preview(clip.motions[1], enlarged(clip.scene.render(), SIDE), opacity=0.85)
        panels.append(Panel(clip.kind, shown.video, clip.scene.caption))
    return contact_sheet(panels, FRAMES_SHOWN, note=_NOTE)


_NOTE = "arrows: where things will be three frames on, as far as can be told"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--references", type=int, nargs="+", default=list(REFERENCES), help="their numbers")
    args = parser.parse_args(arguments)
    model = load_model()
    moving = read_clips(model, moving_scenes(args.references))
    still = read_clips(model, still_scenes(STILLS))
    text = report(moving, still)
    args.page.write_text(text, encoding="utf-8")
    write_picture(picture([*(moving[i] for i in SHOWN if i < len(moving)), still[0]]), args.picture)
    print(text)


if __name__ == "__main__":
    main()
