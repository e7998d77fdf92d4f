"""Exact scores of drawn clips: where each thing is and whether the caption is met, by colour and outline.

A drawn picture mixes two tones of one ground and the flat colours of things, so every pixel is taken apart
into these (linear unmixing): its share of a thing's colour is how much of the pixel the thing covers, which
gives centres far finer than a pixel. Nothing is trained.

Shapes: f frames, h, w height and width in pixels, o objects, c colours (in the order of `COLOURS`).
Coordinates are pixels, x to the right and y down, as in `drawing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import cv2
import numpy as np

from .drawing import COLOURS, GROUNDS, OUTLINES, Scene

NOTHING = "nothing"

# How far (RGB, Euclidean) a pixel may be from what explains it before it counts for little.
_TOLERANCE = 40.0
# A thing covers at least this many pixels; the smallest that is drawn covers about 40.
_LEAST_AREA = 12.0
_PATCH = 32
_PATCH_AREA = 240.0  # pixels of a patch that the shape covers
_SYMMETRY = {"circle": 1, "square": 4, "triangle": 3, "cross": 4}
_ANGLE_STEP = np.deg2rad(7.5)
_BLUR = 1.2  # pixels of a patch; shapes are looked for sharp and blurred
_GROUND_TRUNCATION = 40.0


@dataclass(frozen=True, eq=False)
class Found:
    """Where things are.

    Attributes:
        paths: centres, float32 [o, f, 2], never nan: while a thing is not seen it is taken to stand where it
            was seen last (at the beginning: first), so that what vanishes does not follow anything; never
            found, it is put in the middle of the picture.
        found: bool [o, f], whether the thing was seen in that frame.
    """

    paths: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class CaptionScore:
    """What a video shows, beside what its caption says.

    Attributes:
        colours, shapes: per object, what is seen in its place; ``nothing`` where there is nothing.
        colour_right, shape_right: per object, whether it is what the caption says.
        ground: the ground's colour that is seen.
        ground_right: whether it is what the caption says.
    """

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    colour_right: tuple[bool, ...]
    shape_right: tuple[bool, ...]
    ground: str
    ground_right: bool

    @property
    def right(self) -> bool:
        """Whether everything is."""
        return all(self.colour_right) and all(self.shape_right) and self.ground_right


@dataclass(frozen=True, eq=False)
class _Blobs:
    """The largest thing of one colour in each frame: coverage [f, h, w], area [f] (0: none), centre [f, 2]."""

    cover: np.ndarray
    area: np.ndarray
    centre: np.ndarray


def locate(video: np.ndarray, scene: Scene) -> Found:
    """The centre of the largest thing of each colour that the caption names, in every frame.

    The ground is the one that explains the video best, right or wrong. A thing whose colour is wrong is not found.

    Args:
        video: uint8 [f, h, w, 3]; it may be blurred, grainy or generated.
        scene: its things say which colours to look for; neither its paths nor its ground are used.

    Raises:
        ValueError: it is no such video, or has another number of frames than the scene.
    """
    _check(video, scene)
    covers = _covers(video, _ground_of(video), [thing.colour for thing in scene.things])
    blobs = [_largest(cover) for cover in covers]
    found = np.array([blob.area > 0 for blob in blobs], bool).reshape(-1, len(video))
    h, w = video.shape[1:3]
    middle = np.array([(w - 1) / 2, (h - 1) / 2])
    paths = [_filled(blob.centre, seen, middle) for blob, seen in zip(blobs, found, strict=True)]
    return Found(np.array(paths, np.float32).reshape(-1, len(video), 2), found)


def locate_any(video: np.ndarray, things: int) -> Found:
    """The centres of the largest things of whatever colour, each followed from frame to frame.

    Two things may come out in one colour, and then `locate` finds one of them alone.

    Args:
        video: uint8 [f, h, w, 3].
        things: how many are looked for.
    """
    cover = _covers(video, _ground_of(video), list(COLOURS)).sum(axis=0)
    centres = [_largest_centres(picture, things) for picture in cover]
    start = max(range(len(video)), key=lambda frame: len(centres[frame]))
    paths = np.full((things, len(video), 2), np.nan)
    for order in (range(start, len(video)), range(start, -1, -1)):
        last = np.full((things, 2), np.nan)
        for frame in order:
            for track, centre in zip(_tracks(last, centres[frame]), centres[frame], strict=True):
                paths[track, frame] = last[track] = centre
    seen = ~np.isnan(paths[..., 0])
    h, w = video.shape[1:3]
    filled = [_filled(*track, np.array([(w - 1) / 2, (h - 1) / 2])) for track in zip(paths, seen, strict=True)]
    return Found(np.array(filled, np.float32), seen)


def _tracks(last: np.ndarray, centres: np.ndarray) -> tuple[int, ...]:
    """Which track each centre goes on with: the nearest, in sum; one that has begun, if there is such."""
    far = np.nan_to_num(np.linalg.norm(centres[:, None] - last[None], axis=-1), nan=1e6)
    choices = permutations(range(len(last)), len(centres))
    return min(choices, key=lambda choice: sum(far[i, track] for i, track in enumerate(choice)))


def caption_correct(video: np.ndarray, scene: Scene) -> CaptionScore:
    """Whether things have the colours and shapes of the caption, and the background its ground.

    As many things are looked for as the caption has: the colours that cover most, each by its largest thing
    in every frame, seen in at least half of the frames. A thing of the caption whose colour is among them is
    that one; the others take what is left, the largest first. A thing's shape is the one whose rendering,
    at the same centre and area, sharp or blurred, over all angles, correlates best with it, by the sum over
    frames. (A soft intersection over union would do on clean pictures, but grain makes squares circles.)

    Args:
        video: uint8 [f, h, w, 3].
        scene: only its caption is used.

    Raises:
        ValueError: it is no such video, or has another number of frames than the scene.
    """
    _check(video, scene)
    ground = _ground_of(video)
    colours = _colours_seen(video, ground, [thing.colour for thing in scene.things])
    seen = [colour for colour in colours if colour != NOTHING]
    # Without the colours that are not there, whose share of a grainy edge would be missing from its thing.
    covers = dict(zip(seen, _covers(video, ground, seen), strict=True))
    shapes = [_shape_of(_largest(covers[colour])) if colour in covers else NOTHING for colour in colours]
    return CaptionScore(
        colours=tuple(colours),
        shapes=tuple(shapes),
        colour_right=tuple(seen == thing.colour for seen, thing in zip(colours, scene.things, strict=True)),
        shape_right=tuple(seen == thing.shape for seen, thing in zip(shapes, scene.things, strict=True)),
        ground=ground,
        ground_right=ground == scene.ground,
    )


def _check(video: np.ndarray, scene: Scene) -> None:
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a video is uint8 (f, h, w, 3), not {video.dtype} {video.shape}: convert it")
    if len(video) != scene.frames:
        raise ValueError(
            f"the video has {len(video)} frames and the scene {scene.frames}: they must be as many"
        )
    if min(video.shape[1:3]) < 1:
        raise ValueError(f"the frames are {video.shape[1]} x {video.shape[2]} pixels: give at least 1 x 1")


# --- taking pixels apart ------------------------------------------------------------------------------------


def _ground_of(video: np.ndarray) -> str:
    """The ground between whose two tones the pixels of the video lie best; what is far from all counts alike."""
    pixels = video[:, ::2, ::2].reshape(-1, 3).astype(np.float32)
    errors = {}
    for name, tones in GROUNDS.items():
        dark, light = np.array(tones, np.float32)
        along = light - dark
        share = np.clip((pixels - dark) @ (along / (along @ along)), 0, 1)
        distance = np.linalg.norm(pixels - dark - share[:, None] * along, axis=1)
        errors[name] = np.minimum(distance, _GROUND_TRUNCATION).mean()
    return min(errors, key=errors.__getitem__)


def _covers(video: np.ndarray, ground: str, colours: Sequence[str]) -> np.ndarray:
    """How much of each pixel each colour covers, 0 to 1, [c, f, h, w]; at most one colour in a pixel.

    A pixel is x = dark + a (colour - dark) + s (light - dark), with 0 <= a and 0 <= s <= 1 - a. The colour
    that leaves the least of x unexplained has it, with share a, less what remains unexplained.
    """
    if not colours:
        return np.zeros((0, *video.shape[:3]), np.float32)
    dark, light = np.array(GROUNDS[ground], np.float32)
    pixels = video.reshape(-1, 3).astype(np.float32) - dark
    shares, errors = [], []
    for colour in np.array([COLOURS[colour] for colour in colours], np.float32):
        basis = np.stack([colour - dark, light - dark])
        a, s = np.linalg.pinv(basis).T.astype(np.float32) @ pixels.T
        a = np.clip(a, 0, 1)
        s = np.clip(s, 0, 1 - a)
        error = pixels - a[:, None] * basis[0] - s[:, None] * basis[1]
        shares.append(a)
        errors.append(np.einsum("px,px->p", error, error))
    errors = np.stack(errors)
    likely = np.stack(shares) * np.exp(-errors / (2 * _TOLERANCE**2))
    return np.where(errors <= errors.min(axis=0), likely, 0).reshape(-1, *video.shape[:3])


def _largest(cover: np.ndarray) -> _Blobs:
    """The largest connected thing of a coverage [f, h, w] in each frame, with the soft pixels at its edge."""
    kept = np.zeros_like(cover)
    for picture, out in zip(cover, kept, strict=True):
        for thing in _largest_things(picture, 1):
            out[:] = thing
    area = kept.sum(axis=(1, 2))
    area = np.where(area >= _LEAST_AREA, area, 0)
    y, x = np.indices(cover.shape[1:], dtype=np.float32)
    moments = np.stack([(kept * axis).sum(axis=(1, 2)) for axis in (x, y)], axis=-1)
    return _Blobs(kept, area, moments / np.maximum(area, _LEAST_AREA)[:, None])


def _largest_things(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """The coverage [h, w] of each of the largest connected things, with the soft pixels at its edge."""
    # A blur first: stray pixels vanish, and a noisy thing stays in one piece.
    core = (cv2.GaussianBlur(picture, (0, 0), 0.8) > 0.4).astype(np.uint8)
    number, labels = cv2.connectedComponents(core, connectivity=4)
    masses = np.bincount(labels.ravel(), weights=picture.ravel(), minlength=number)
    masses[0] = 0
    largest = [label for label in np.argsort(-masses, kind="stable")[:count] if label and masses[label] > 0]
    around = np.ones((3, 3), np.uint8)
    return [picture * cv2.dilate((labels == label).astype(np.uint8), around, iterations=2) for label in largest]


def _largest_centres(picture: np.ndarray, count: int) -> np.ndarray:
    """[n, 2], the largest first, of those that are not too small."""
    things = [thing for thing in _largest_things(picture, count) if thing.sum() >= _LEAST_AREA]
    y, x = np.indices(picture.shape, dtype=np.float32)
    return np.array([[(thing * axis).sum() / thing.sum() for axis in (x, y)] for thing in things]).reshape(-1, 2)


def _filled(centre: np.ndarray, found: np.ndarray, middle: np.ndarray) -> np.ndarray:
    if not found.any():
        return np.tile(middle, (len(centre), 1))
    last_seen = np.maximum.accumulate(np.where(found, np.arange(len(centre)), found.argmax()))
    return centre[last_seen]


# --- naming things ------------------------------------------------------------------------------------------


def _colours_seen(video: np.ndarray, ground: str, named: list[str]) -> list[str]:
    """The colour that is seen in the place of each named one."""
    found = zip(
        COLOURS, [_largest(cover).area for cover in _covers(video, ground, list(COLOURS))], strict=True
    )
    areas = {colour: area.mean() for colour, area in found if (area > 0).mean() >= 0.5}
    seen = sorted(areas, key=areas.__getitem__, reverse=True)[: len(named)]
    others = iter([colour for colour in seen if colour not in named])
    return [colour if colour in seen else next(others, NOTHING) for colour in named]


def _shape_of(blob: _Blobs) -> str:
    """The shape that looks most like the things [f, h, w], by the sum over the frames that have one."""
    names, templates = _templates()
    votes = np.zeros(len(_SYMMETRY))
    for cover in blob.cover[blob.area > 0]:
        likeness = templates @ _patch(cover)
        votes += [likeness[names == name].max() for name in _SYMMETRY]
    return list(_SYMMETRY)[int(votes.argmax())]


def _patch(cover: np.ndarray) -> np.ndarray:
    """A thing, brought to the middle of a patch and to the area of the templates, as a unit vector."""
    # Grain makes a thing a little transparent and its surroundings a little covered: more contrast undoes it.
    crisp = np.clip((cv2.GaussianBlur(cover, (0, 0), 0.4) - 0.5) * 1.5 + 0.5, 0, 1)
    moments = cv2.moments(crisp)
    scale = np.sqrt(_PATCH_AREA / moments["m00"])
    shift = [(_PATCH - 1) / 2 - scale * moments[axis] / moments["m00"] for axis in ("m10", "m01")]
    move = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    return _as_vector(cv2.warpAffine(crisp, move, (_PATCH, _PATCH), flags=cv2.INTER_LINEAR))


def _as_vector(picture: np.ndarray) -> np.ndarray:
    """Of mean 0 and length 1, so that a product is a correlation."""
    vector = (picture - picture.mean()).reshape(-1)
    return vector / np.linalg.norm(vector)


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Names [t] and renderings [t, patch * patch] of all shapes, at all angles that differ, of one area."""
    axis = np.arange(_PATCH, dtype=np.float32) - (_PATCH - 1) / 2
    x, y = np.meshgrid(axis, axis)
    names, vectors = [], []
    for name, symmetry in _SYMMETRY.items():
        angles = np.arange(0, 2 * np.pi / symmetry, _ANGLE_STEP) if name != "circle" else [0.0]
        for angle in angles:
            c, s = np.cos(angle), np.sin(angle)
            sharp = _of_area(name, c * x + s * y, -s * x + c * y)
            names += [name, name]
            vectors += [_as_vector(sharp), _as_vector(cv2.GaussianBlur(sharp, (0, 0), _BLUR))]
    return np.array(names), np.stack(vectors).astype(np.float32)


def _of_area(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    unit = 10.0
    area = (OUTLINES[name](x, y, np.float32(unit)) < 0).sum()
    radius = np.float32(unit * np.sqrt(_PATCH_AREA / area))
    return np.clip(0.5 - OUTLINES[name](x, y, radius), 0, 1)
