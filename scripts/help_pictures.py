#!/usr/bin/env python3
"""Draws the pictures of the nodes' help pages, with the embedded model, into web/docs/pictures."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray
from PIL import Image

from demo import Shown, clone, drawn_clips
from demo import panels as panels_of
from edit_cells import ONE, Clip, EditSetting, cells, clips, region, wanted
from edit_study import sampled
from embedded.drawing import SIZE, random_scene
from embedded.measuring import FAST, read_motion, seed_for
from embedded.model import EmbeddedModel, load_model
from embedded.scoring import locate_any
from motionclone_core.headless import extract
from motionclone_core.paths import write_whole
from motionclone_core.schedule import GuidanceWindow, Keyframe, Ramp, StrengthCurve, uneven_timesteps
from motionclone_core.score import TrackedVideo, score_motion
from motionclone_core.semantics import Semantics, Words
from motionclone_core.video import evenly_spaced
from motionclone_core.visualisation.agreement import draw_tracks
from motionclone_core.visualisation.canvas import BACKGROUND, INK, MUTED, PATH_COLOUR, Colour
from motionclone_core.visualisation.preview import preview
from motionclone_core.visualisation.regions import regions_preview
from motionclone_core.visualisation.sheets import Panel, contact_sheet, enlarged
from motionclone_core.visualisation.tracks import draw_paths

Picture = NDArray[np.uint8]  # [H, W, 3]
OUTPUT = Path(__file__).parent.parent / "web" / "docs" / "pictures"
SIDE = 168  # a help page is narrow
WIDTH = 1050
SHOWN = (0, 4, 8, 12, 15)
WARM: Colour = (250, 150, 40)  # of the heat maps
PATHS = "blue: where a thing is; white, dashed: where the motion has it"


# --- what the nodes do ------------------------------------------------------------------------------------


def sheet(panels: Sequence[Panel], note: str = "") -> Picture:
    """A contact sheet for a help page."""
    small = [replace(panel, video=enlarged(panel.video, SIDE)) for panel in panels]
    return contact_sheet(small, SHOWN, note=note)


def cloning(model: EmbeddedModel) -> dict[str, Picture]:
    """What is read of a reference, and what follows it."""
    shown: Shown = clone(model, drawn_clips()[:1], FAST, 0)[0]
    reference, motion, unguided, guided = panels_of(shown)
    unguided, guided = (replace(panel, label=name) for panel, name in ((unguided, "without"), (guided, "guided")))
    return {
        "extract": sheet([reference, replace(motion, caption="the attention kept")]),
        "guidance": sheet([reference, unguided, guided], PATHS),
    }


def previewed(model: EmbeddedModel) -> dict[str, Picture]:
    """What a motion will guide."""
    panels = []
    for kind, number in (("curved", 2), ("straight", 6)):
        video = random_scene(np.random.default_rng(number), motion=kind, objects=1).render()
        motion = read_motion(model, video, FAST, seed=seed_for(0, number, "extraction"))
        panels.append(Panel(kind, preview(motion, enlarged(video, SIDE)).video))
    return {"preview": sheet(panels, "bright: something moves; arrows: where it will be three frames on")}


def worded(model: EmbeddedModel) -> dict[str, Picture]:
    """Where words of a reference lie."""
    scene = random_scene(np.random.default_rng(2), motion="curved", objects=2)
    video, words = scene.render(), Words(scene.caption, scene.words[:2], (0, 1))
    settings = {"blocks": FAST.blocks, "k": FAST.k, "t_alpha": 100, "words": words.tokens}
    motion = extract(model.host, model.encode(video), model.text(scene.words), **settings)
    shown = regions_preview(motion, Semantics(words, {}), enlarged(video, SIDE)).video
    reference = Panel("reference", enlarged(video, SIDE), scene.caption)
    found = Panel("foreground", shown, " ".join(words.words))
    return {"words": sheet([reference, found], "in colour: where the words were found; dot: its middle")}


def scored(model: EmbeddedModel) -> dict[str, Picture]:
    """Tracks of a result that follows, and of one that does not."""
    shown: Shown = clone(model, drawn_clips()[:1], FAST, 0)[0]
    reference = TrackedVideo.of(shown.clip.video / 255, "the reference")
    rows = (("guided", "one colour: alike", shown.guided), ("without", "white: alone", shown.unguided))
    pairs = []
    for name, said, result in rows:
        video = TrackedVideo.of(result / 255, name)
        captions = (said, f"{name}: fidelity {score_motion(reference, video).motion_fidelity:.2f}")
        drawn = draw_tracks(reference.frames, video.frames, (reference.tracks, video.tracks), captions=captions)
        pairs.append(drawn[len(drawn) // 2])
    return {"tracks": _narrowed(np.concatenate(pairs, axis=1))}


def _narrowed(picture: Picture) -> Picture:
    height = round(picture.shape[0] * WIDTH / picture.shape[1])
    return cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)


def retimed(model: EmbeddedModel) -> dict[str, Picture]:
    """A motion followed backwards."""
    (clip,) = clips("one", 1, first=2)
    return {"retime": sheet([_reference(clip), _followed(model, clip, replace(ONE, reverse=True), "reverse")], PATHS)}


def placed(model: EmbeddedModel) -> dict[str, Picture]:
    """A motion followed in another place."""
    (clip,) = clips("one", 1)
    setting = replace(ONE, scale=0.8, x=0.15, y=0.15)
    panel = _followed(model, clip, setting, "placed", "scale 0.8, x and y 0.15")
    return {"place": sheet([_reference(clip), panel], PATHS)}


def masked(model: EmbeddedModel) -> dict[str, Picture]:
    """One of two motions followed."""
    (clip,) = clips("two", 1, first=3)
    panel = _followed(model, clip, cells()["two/first"], "masked", "darker: left out")
    return {"mask": sheet([_reference(clip), panel], PATHS)}


def combined(model: EmbeddedModel) -> dict[str, Picture]:
    """Two motions followed by one video."""
    (clip,) = clips("two", 1, first=3)
    panel = _followed(model, clip, cells()["two/each its own"], "combined")
    return {"combine": sheet([*_alone(clip), panel], PATHS)}


def _reference(clip: Clip) -> Panel:
    return Panel("reference", _drawn(clip.reference.render(), clip.reference.paths), "a drawn clip")


def _alone(clip: Clip) -> list[Panel]:
    scenes = [clip.reference.alone(i) for i in range(2)]
    return [Panel(f"motion_{i + 1}", _drawn(scene.render(), scene.paths)) for i, scene in enumerate(scenes)]


def _followed(model: EmbeddedModel, clip: Clip, setting: EditSetting, label: str, caption: str = "") -> Panel:
    (result,) = sampled(model, [clip], setting)
    asked, found = wanted(clip, setting), locate_any(result.video, len(clip.reference.things)).paths
    video = result.video
    if setting.mask == "first":
        asked = asked[:1]
        mask = region(clip.reference, 0, margin=setting.margin, moving=setting.moving).numpy()
        video = np.rint(video * (0.55 + 0.45 * mask[..., None])).astype(np.uint8)
    return Panel(label, _drawn(video, found, asked), caption)


def _drawn(
    video: NDArray[np.uint8], paths: NDArray[np.floating], asked: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    return draw_paths(enlarged(video, SIDE), paths, compared=asked, measured_in=(SIZE, SIZE))


# --- what their numbers mean ------------------------------------------------------------------------------


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


STYLE = {
    "font.size": 11,
    "text.color": _css(INK),
    "axes.labelcolor": _css(MUTED),
    "axes.edgecolor": _css(MUTED),
    "xtick.color": _css(MUTED),
    "ytick.color": _css(MUTED),
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), _css(BACKGROUND)),
}


def chart(draw: Callable[[Any], None], *, height: float) -> Picture:
    """A chart in the colours of the sheets, 1000 pixels wide."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6.25, height), dpi=160, layout="constrained")
        draw(axes)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        pyplot.close(figure)
    return np.asarray(Image.open(file).convert("RGB"))


def _timesteps(axes: Any) -> None:
    """The steps of the preset fast beside even ones."""
    fast = uneven_timesteps(30, 20, 0.4)
    rows = (("MotionClone\nScheduler", fast, 20), ("evenly\nspaced", uneven_timesteps(30, 0, 0.4), 0))
    for row, (_, timesteps, guided) in enumerate(rows):
        colours = [_css(PATH_COLOUR if i < guided else MUTED) for i in range(len(timesteps))]
        axes.vlines(timesteps, row - 0.3, row + 0.3, colors=colours, linewidth=2.4)
    axes.axvspan(600, 999, color=_css(PATH_COLOUR), alpha=0.1, linewidth=0)
    axes.text(800, -0.42, "ratio 0.4: 20 guided steps", ha="center", va="bottom", color=_css(PATH_COLOUR))
    axes.set(yticks=(0, 1), yticklabels=[name for name, *_ in rows], xlabel="timestep: from pure noise to the video")
    axes.set(xlim=(1012, -12), ylim=(1.45, -0.75))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=_css(INK))


def _curves(axes: Any) -> None:
    """What the ways between keyframes are, and what they take the place of."""
    steps = 401
    ways = {way: _pulse(way) for way in ("linear", "ease", "hold")}
    ramps: dict[str, tuple[Ramp, Colour]] = {
        "linear": (ways["linear"], PATH_COLOUR),
        "ease": (ways["ease"], WARM),
        "hold": (ways["hold"], INK),
    }
    for name, (ramp, colour) in ramps.items():
        points = [ramp.ramp(step, steps) for step in range(steps)]
        axes.plot(np.linspace(0, 1, steps), points, color=_css(colour), linewidth=2.2, label=name)
    usual = [GuidanceWindow(0, 20, 0, 8).ramp(step, 30) for step in range(30)]
    axes.step(np.linspace(0, 1, 30), usual, where="post", color=_css(MUTED), linewidth=1.2, linestyle=":", label="fast")
    keyframes = ways["linear"].keyframes
    axes.plot([k.at for k in keyframes], [k.strength for k in keyframes], "o", color=_css(INK), markersize=7, zorder=5)
    axes.set(xlabel="at: from the first step to the last", ylabel="strength", xlim=(-0.02, 1.02), ylim=(-0.06, 1.3))
    axes.legend(loc="upper right", frameon=False, ncols=4, handlelength=1.6, columnspacing=1.4)


def _pulse(way: Any) -> StrengthCurve:
    points = ((0.0, 1.0), (0.35, 1.0), (0.6, 0.0), (0.8, 0.5), (1.0, 0.0))
    return StrengthCurve(tuple(Keyframe(at, strength, way) for at, strength in points))


def _frames(axes: Any) -> None:
    """Which frames are taken of the part that is asked for."""
    fps, total, start, length, count = 24, 96, 1.0, 2.0, 16
    first, last = round(start * fps), round((start + length) * fps) - 1
    taken = evenly_spaced(first, last, count)
    shown = drawn_clips()[0].video
    for i in range(total):
        inside = first <= i <= last
        axes.bar(i, 1, width=0.72, color=_css(PATH_COLOUR if i in taken else MUTED), alpha=1 if inside else 0.35)
    for number, column in zip(range(0, count, 3), np.linspace(6, total - 7, 6), strict=True):
        axes.plot([taken[number], column], [-0.1, -1.2], color=_css(PATH_COLOUR), linewidth=1, alpha=0.6)
        axes.imshow(shown[number], extent=(column - 7, column + 7, -3.6, -1.2), aspect="auto", zorder=3)
        axes.text(column, -3.8, f"frame {number + 1}", ha="center", va="top", color=_css(MUTED))
    axes.annotate("", (first - 0.5, 1.5), (last + 0.5, 1.5), arrowprops={"arrowstyle": "<->", "color": _css(INK)})
    axes.text((first + last) / 2, 1.75, "length 2 s, 16 frames", ha="center", va="bottom")
    axes.text((first - 1) / 2, 1.75, "start 1 s", ha="center", va="bottom", color=_css(MUTED))
    axes.set(xlim=(-1.5, total + 0.5), ylim=(-4.6, 2.9))
    axes.axis("off")


def charts(_: EmbeddedModel) -> dict[str, Picture]:
    """What needs no model."""
    return {
        "frames": chart(_frames, height=2.8),
        "scheduler": chart(_timesteps, height=2.1),
        "keyframes": chart(_curves, height=2.6),
    }


# --- files ------------------------------------------------------------------------------------------------


def write_webp(picture: Picture, path: Path) -> None:
    """Write a small WebP file, whole or not at all."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="WEBP", quality=82, method=6)
    write_whole(path, file.getvalue())


GROUPS: dict[str, Callable[[EmbeddedModel], dict[str, Picture]]] = {
    "charts": charts,
    "cloning": cloning,
    "previewed": previewed,
    "worded": worded,
    "scored": scored,
    "retimed": retimed,
    "placed": placed,
    "masked": masked,
    "combined": combined,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="not all of the pictures")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(arguments)
    model = load_model()
    for group in args.only:
        for name, picture in GROUPS[group](model).items():
            write_webp(picture, args.output / f"{name}.webp")
            print(f"{name}.webp: {picture.shape[1]} x {picture.shape[0]}")


if __name__ == "__main__":
    main()
