"""What scripts/edit_study.py measures: references, edits of their motions, and the paths that these ask for.

Shapes used here:
    o   objects      f   frames      h, w   height and width in pixels
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from embedded.drawing import FRAMES, SIZE, Scene, random_scene
from embedded.measuring import FAST, HELD_OUT, Setting, held_out_cases, read_motion, seed_for
from embedded.model import EmbeddedModel
from motionclone_core.editing import Repeat, masked, placed, retimed, timing
from motionclone_core.mixing import Motion, MotionPart
from motionclone_core.representation import MotionRepresentation, Window
from motionclone_core.windows import sliding_windows

Paths = NDArray[np.float32]  # [o, f, 2]
LONG = 64
# What goes its way, in the words of `measuring.Case.kind`; of other things there is no path to retime or to move.
_GOING = ("straight", "curved", "turning", "camera")
_STREAM = {"two": 2, "long": 3}


@dataclass(frozen=True)
class EditSetting(Setting):
    """How a cell samples, and what it does to the motion first.

    Attributes:
        clips: which references: ``one`` thing that goes its way, ``two`` things, each in a region of its own, or a
            ``long`` clip.
        read_size: side of the clips that are read, in pixels.
        read_frames: how many frames they have.
        speed, reverse, repeat: see `editing.timing`.
        x, y, scale: see `editing.placed`.
        mask: ``first``: around the first thing; ``all but the first``; ``each its own``: two motions are read, each off
            a clip of one of the things alone, and each is masked to its region. Empty: none.
        margin: by how much a mask is wider than what the thing covers, in pixels.
        moving: the mask follows the thing; otherwise it holds all that the thing passes, in every frame.
        cut: it ends where the other thing, or what that passes, is nearer.
        overlap: of windows of 16 frames; 0: the model sees all frames at once.
    """

    clips: str = "one"
    read_size: int = SIZE
    read_frames: int = FRAMES
    speed: float = 1.0
    reverse: bool = False
    repeat: Repeat = "hold"
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    mask: str = ""
    margin: float = 0.0
    moving: bool = False
    cut: bool = False
    overlap: int = 0

    @property
    def follows(self) -> list[int]:
        """Which frame of the reference each frame follows."""
        return timing(
            self.read_frames, self.frames, speed=self.speed, reverse=self.reverse, repeat=self.repeat
        )

    @property
    def windows(self) -> tuple[Window, ...] | None:
        """The frames that the model sees at once; None for all."""
        return sliding_windows(self.frames, FRAMES, self.overlap) if self.overlap else None


@dataclass(frozen=True)
class Clip:
    """A reference, what to show instead, and what decides the noise."""

    index: int
    reference: Scene
    target: Scene
    seed: int

    def shown(self, setting: EditSetting) -> Scene:
        """The reference as a cell reads it."""
        scene = self.reference
        if setting.read_frames != scene.frames:
            scene = held_out_cases(self.index + 1, 0, frames=setting.read_frames)[-1].reference
        return scene if setting.read_size == scene.size else scene.enlarged(setting.read_size)


# --- references -------------------------------------------------------------------------------------------


def clips(kind: str, number: int, *, first: int = 0, seed: int = 0) -> list[Clip]:
    """References that training never saw.

    Args:
        kind: see `EditSetting.clips`.
        number: how many.
        first: the number of the first; of ``one``, those that do not go their way are left out.
        seed: of the noise.
    """
    if kind == "one":
        # More than every third does.
        cases = held_out_cases(first + 3 * number + 8, 0)[first:]
        going = [case for case in cases if case.kind in _GOING][:number]
        return [Clip(case.index, case.reference, case.target, seed) for case in going]
    draw = {"two": _two, "long": _long}[kind]
    found = []
    for index in range(first, first + number):
        rng = np.random.default_rng((HELD_OUT, index, _STREAM[kind]))
        reference = draw(rng, index)
        found.append(Clip(index, reference, _unlike(reference, rng), seed))
    return found


def _two(rng: np.random.Generator, index: int) -> Scene:
    """Two things that move, so far apart that neither comes where the other has been."""
    while True:
        scene = random_scene(rng, motion=("straight", "curved")[index % 2], objects=2)
        paths, radii = scene.paths, scene.radii
        apart = np.linalg.norm(paths[0][:, None] - paths[1][None], axis=-1).min() - radii.max(1).sum()
        if apart >= 2 and np.ptp(paths, axis=1).max(-1).min() >= 12:
            return scene


def _long(rng: np.random.Generator, _index: int) -> Scene:
    """A thing on a closed curve, one to two turns of it in each direction: it neither stops nor repeats a window."""
    scene = random_scene(rng, motion="still", objects=1, frames=LONG)
    (thing,) = scene.things
    reach = (SIZE - 1) / 2 - thing.radius.max()
    turns, phase = rng.uniform(1, 2, 2), rng.uniform(0, 1, 2)
    way = np.sin(2 * np.pi * (np.linspace(0, 1, LONG)[:, None] * turns + phase))
    centre = ((SIZE - 1) / 2 + reach * way).astype(np.float32)
    return replace(scene, things=(replace(thing, centre=centre),))


def _unlike(reference: Scene, rng: np.random.Generator) -> Scene:
    """As many things, none of a shape or colour of the reference's in its place, before another ground."""
    while True:
        scene = random_scene(rng, objects=len(reference.things))
        pairs = list(zip(scene.things, reference.things, strict=True))
        if scene.ground != reference.ground and all(a.shape != b.shape and a.colour != b.colour for a, b in pairs):
            return scene


# --- edits ------------------------------------------------------------------------------------------------


def region(scene: Scene, thing: int, *, margin: float, moving: bool, cut: bool = False) -> torch.Tensor:
    """A mask around a thing.

    Args:
        scene: of one thing or two.
        thing: which, counted from 0.
        margin: how much wider than the thing, in pixels.
        moving: it goes with the thing; otherwise it holds all that the thing passes.
        cut: it ends where the other thing, or what that passes, is nearer.

    Returns:
        1 inside, ``[f, h, w]`` or ``[1, h, w]``.
    """
    own = _away(scene, thing, moving)
    mask = np.clip(margin - own + 0.5, 0, 1)
    if cut:
        mask = mask * np.clip((_away(scene, 1 - thing, moving) - own) / 2 + 0.5, 0, 1)
    return torch.from_numpy(mask.astype(np.float32))


def _away(scene: Scene, thing: int, moving: bool) -> NDArray[np.floating]:
    """How far each pixel is from a disc around the thing, ``[f, h, w]``, or from all of its discs, ``[1, h, w]``."""
    axis = np.arange(scene.size)
    x, y = np.meshgrid(axis, axis)
    path = scene.paths[thing]
    offsets = np.hypot(x - path[:, 0, None, None], y - path[:, 1, None, None]) - scene.radii[thing][:, None, None]
    return offsets if moving else offsets.min(axis=0, keepdims=True)


def motion_of(model: EmbeddedModel, clip: Clip, setting: EditSetting) -> Motion | MotionRepresentation:
    """What leads a clip: the reference's motion, edited."""
    scene = clip.shown(setting)
    if setting.mask == "each its own":
        own = (_masked(_read(model, scene.alone(i), clip, setting), scene, i, setting) for i in range(2))
        return Motion(tuple(MotionPart(representation) for representation in own))
    motion = _read(model, scene, clip, setting)
    if setting.follows != list(range(setting.read_frames)):
        motion = retimed(motion, setting.follows)
    if (setting.x, setting.y, setting.scale) != (0.0, 0.0, 1.0):
        motion = placed(motion, x=setting.x, y=setting.y, scale=setting.scale)
    return _masked(motion, scene, 0, setting) if setting.mask else motion


def _read(model: EmbeddedModel, scene: Scene, clip: Clip, setting: EditSetting) -> MotionRepresentation:
    seed = seed_for(clip.index, clip.seed, "extraction")
    return read_motion(model, scene.render(), setting, seed=seed, windows=setting.windows)


def _masked(
    motion: MotionRepresentation, scene: Scene, thing: int, setting: EditSetting
) -> MotionRepresentation:
    mask = region(scene, thing, margin=setting.margin, moving=setting.moving, cut=setting.cut)
    return masked(motion, mask, invert=setting.mask == "all but the first")


def wanted(clip: Clip, setting: EditSetting) -> Paths:
    """Where a result that follows perfectly has the reference's things, ``[o, f, 2]``; masks change nothing of it."""
    scene = clip.shown(setting)
    if setting.follows != list(range(setting.read_frames)):
        scene = scene.timed(setting.follows)
    share = (scene.paths + 0.5) / scene.size  # of the frame
    share = 0.5 + (share - 0.5) * setting.scale + np.array([setting.x, setting.y])
    return (share * setting.size - 0.5).astype(np.float32)


def unretimed(clip: Clip, setting: EditSetting) -> Paths:
    """The reference's first frames as they are, as many as the result has."""
    return clip.shown(setting).paths[:, : setting.frames]


# --- cells ------------------------------------------------------------------------------------------------

MARGIN = 6.0
MASK = {"margin": MARGIN, "moving": True}
OVERLAPS, OTHER_SIZES = (4, 8), (32, 128)
ONE = EditSetting(**asdict(FAST))
TWO, LONG_CLIP = replace(ONE, clips="two"), replace(ONE, clips="long", read_frames=LONG, frames=LONG)


def cells() -> dict[str, EditSetting]:
    """Every cell by name; what is before the slash are its references. What takes longest comes last."""
    small, large = (replace(ONE, size=size) for size in OTHER_SIZES)
    named = {
        "one/no guidance": _free(ONE),
        "one/half speed": replace(ONE, speed=0.5),
        "one/reversed": replace(ONE, reverse=True),
        "one/to and fro": replace(ONE, speed=2.0, repeat="ping-pong"),
        "one/32 frames": replace(ONE, read_frames=32, speed=31 / 15),
        "two/no guidance": _free(TWO),
        "two/whole frame": TWO,
        "two/first": replace(TWO, mask="first", **MASK),
        "two/all but the first": replace(TWO, mask="all but the first", **MASK),
        "two/each its own": replace(TWO, mask="each its own", margin=float(SIZE), cut=True),
        "two/each its own, tight": replace(TWO, mask="each its own", **MASK),
        "one/no guidance, 32": _free(small),
        "one/64 to 32": small,
        "one/32 to 32": replace(small, read_size=32),
        "one/a tenth to the right": replace(ONE, x=0.1),
        "one/three quarters as large": replace(ONE, scale=0.75),
        "one/half as large": replace(ONE, scale=0.5, x=0.2),
        "one/32 to 64": replace(ONE, read_size=32),
        "one/128 to 64": replace(ONE, read_size=128),
    }
    for overlap in OVERLAPS:
        windowed = replace(LONG_CLIP, overlap=overlap)
        named |= {f"long/no guidance, overlap {overlap}": _free(windowed), f"long/overlap {overlap}": windowed}
    return named | {"one/no guidance, 128": _free(large), "one/64 to 128": large}


def _free(setting: EditSetting) -> EditSetting:
    """Without guidance; what would be read makes no difference."""
    return replace(setting, weight=0.0)
