"""Drawn clips: one or two shapes that move over a background, with their exact paths and their caption.

Coordinates are pixels, x to the right and y down, (0, 0) the top left corner of the picture. Everything is
drawn from closed formulas (signed distances), so that a position may lie anywhere between two pixels.

Shapes used here:
    f   frames      h, w   height and width in pixels      o   objects
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SIZE = 64
FRAMES = 16

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (228, 52, 48),
    "yellow": (246, 208, 56),
    "green": (64, 192, 84),
    "blue": (64, 120, 240),
    "purple": (184, 76, 220),
    "white": (246, 246, 240),
}
GROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "slate": ((40, 46, 60), (70, 80, 98)),
    "sand": ((112, 94, 70), (148, 128, 98)),
    "teal": ((18, 74, 80), (38, 108, 112)),
    "plum": ((66, 34, 62), (98, 58, 90)),
}
SHAPES = ("circle", "square", "triangle", "cross")
PATTERNS = ("plain", "gradient", "stripes", "checks", "dots")
MOTIONS = ("still", "straight", "curved", "turning", "zooming", "camera")


@dataclass(frozen=True)
class Thing:
    """One shape and where it is in every frame.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        centre: ``[f, 2]``, x and y in pixels, before the camera.
        radius: ``[f]``, half its extent in pixels, before the camera.
        angle: ``[f]``, radians.
    """

    shape: str
    colour: str
    centre: Array
    radius: Array
    angle: Array


@dataclass(frozen=True)
class Camera:
    """A camera that slides and zooms: a point p of the world is seen at (p - middle) * zoom + middle + slide.

    Attributes:
        slide: ``[f, 2]`` pixels.
        zoom: ``[f]``.
    """

    slide: Array
    zoom: Array


@dataclass(frozen=True)
class Scene:
    """A clip as it is drawn: things in front of a background, seen by a camera."""

    things: tuple[Thing, ...]
    pattern: str
    ground: str
    phase: float
    camera: Camera
    motion: str
    size: int = SIZE

    @property
    def frames(self) -> int:
        return len(self.camera.zoom)

    @property
    def words(self) -> tuple[str, ...]:
        """The caption, one word a place: two things (colour, shape) and the background; never the motion."""
        places = [word for thing in self.things for word in (thing.colour, thing.shape)]
        places += ["nothing"] * (4 - len(places))
        return (*places, self.pattern, self.ground)

    @property
    def caption(self) -> str:
        """The caption for people, such as ``red circle and white cross on teal stripes``."""
        things = " and ".join(f"{thing.colour} {thing.shape}" for thing in self.things)
        return f"{things} on {self.ground} {self.pattern}"

    @property
    def paths(self) -> Array:
        """Where the centre of each thing is seen, ``[o, f, 2]``."""
        return np.array([self._seen(thing.centre) for thing in self.things]).reshape(-1, self.frames, 2)

    @property
    def radii(self) -> Array:
        """Half the extent at which each thing is seen, ``[o, f]``."""
        return np.array([thing.radius * self.camera.zoom for thing in self.things]).reshape(-1, self.frames)

    def _seen(self, points: Array) -> Array:
        middle = (self.size - 1) / 2
        seen = (points - middle) * self.camera.zoom[:, None] + middle + self.camera.slide
        return seen.astype(np.float32)

    def dressed_as(self, other: Scene) -> Scene:
        """This scene's motion, camera and positions in the shapes, colours and background of another."""
        things = tuple(
            replace(mine, shape=theirs.shape, colour=theirs.colour)
            for mine, theirs in zip(self.things, other.things, strict=True)
        )
        return replace(self, things=things, pattern=other.pattern, ground=other.ground, phase=other.phase)

    def timed(self, follows: Sequence[int]) -> Scene:
        """This scene in other frames: frame i of the new one is frame ``follows[i]`` of this one.

        Raises:
            ValueError: it has no such frames, or none is asked for.
        """
        if not len(follows) or min(follows) < 0 or max(follows) >= self.frames:
            raise ValueError(f"a scene of {self.frames} frames cannot be timed by {list(follows)}: count them from 0")
        at = np.array(follows)
        things = tuple(
            replace(thing, centre=thing.centre[at], radius=thing.radius[at], angle=thing.angle[at])
            for thing in self.things
        )
        return replace(self, things=things, camera=Camera(self.camera.slide[at], self.camera.zoom[at]))

    def alone(self, thing: int) -> Scene:
        """This scene with one of its things only, counted from 0."""
        return replace(self, things=(self.things[thing],))

    def enlarged(self, size: int) -> Scene:
        """The same things on the same paths in pictures of another size; the background's pattern stays as fine."""
        factor = size / self.size
        things = tuple(
            replace(thing, centre=(thing.centre + 0.5) * factor - 0.5, radius=thing.radius * factor)
            for thing in self.things
        )
        camera = replace(self.camera, slide=self.camera.slide * factor)
        return replace(self, things=things, camera=camera, size=size)

    def render(self) -> NDArray[np.uint8]:
        """The pictures, ``[f, h, w, 3]`` RGB."""
        axis = np.arange(self.size, dtype=np.float32)
        seen = np.stack(np.meshgrid(axis, axis), axis=-1)[None]  # x, y of every pixel
        middle = (self.size - 1) / 2
        zoom = self.camera.zoom[:, None, None, None]
        world = (seen - middle - self.camera.slide[:, None, None]) / zoom + middle
        picture = _ground(world, self.pattern, self.ground, self.phase)
        paths, radii = self.paths, self.radii
        for thing, path, radius in zip(self.things, paths, radii, strict=True):
            distance = _distance(seen - path[:, None, None], thing.shape, radius, thing.angle)
            cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
            picture = picture + cover * (np.array(COLOURS[thing.colour], np.float32) - picture)
        return np.rint(picture).astype(np.uint8)


def _ground(world: Array, pattern: str, ground: str, phase: float) -> Array:
    """The background at world coordinates ``[f, h, w, 2]``."""
    dark, light = (np.array(colour, np.float32) for colour in GROUNDS[ground])
    mix = _PATTERNS[pattern](world[..., 0], world[..., 1], phase)[..., None]
    return dark + np.clip(mix, 0.0, 1.0) * (light - dark)


def _wave(x: Array, period: float) -> Array:
    # A square wave with soft edges: the sine's slope at 0 decides how soft.
    return 0.5 + np.clip(2.0 * np.sin(2 * np.pi * x / period), -0.5, 0.5)


def _dots(x: Array, y: Array, phase: float) -> Array:
    period = 16.0
    dx = (x + phase * period) % period - period / 2
    dy = (y + phase * period) % period - period / 2
    return np.clip(4.5 - np.hypot(dx, dy), 0.0, 1.0)


_PATTERNS: dict[str, Callable[[Array, Array, float], Array]] = {
    "plain": lambda x, y, phase: np.full_like(x, 0.3),
    "gradient": lambda x, y, phase: 0.5 + 0.5 * np.sin(2 * np.pi * (y / (2.5 * SIZE) + phase)),
    "stripes": lambda x, y, phase: _wave(x * 0.8 + y * 0.6 + 20 * phase, 20.0),
    "checks": lambda x, y, phase: 0.5 + 2 * (_wave(x + 24 * phase, 24.0) - 0.5) * (_wave(y, 24.0) - 0.5),
    "dots": _dots,
}


def _distance(offset: Array, shape: str, radius: Array, angle: Array) -> Array:
    """Signed distance to the outline in pixels, negative inside; ``offset`` from the centre ``[f, h, w, 2]``."""
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x = c * offset[..., 0] + s * offset[..., 1]
    y = -s * offset[..., 0] + c * offset[..., 1]
    return OUTLINES[shape](x, y, radius[:, None, None])


def _box(x: Array, y: Array, half_width: Array, half_height: Array) -> Array:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


def _triangle(x: Array, y: Array, radius: Array) -> Array:
    # Three half planes; its centre of mass is the centre.
    inner = 0.55 * radius
    sides = [y - inner] + [sign * np.sqrt(0.75) * x - 0.5 * y - inner for sign in (-1, 1)]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2])


OUTLINES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "circle": lambda x, y, r: np.hypot(x, y) - 0.95 * r,
    "square": lambda x, y, r: _box(x, y, 0.82 * r, 0.82 * r),
    "triangle": _triangle,
    "cross": lambda x, y, r: np.minimum(_box(x, y, r, 0.34 * r), _box(x, y, 0.34 * r, r)),
}


# --- scenes by chance -------------------------------------------------------------------------------------

# Things are placed so often under one camera, and then under another: one camera in 400 leaves two no room.
_TRIES, _CAMERAS = 1000, 10


def random_scene(
    rng: np.random.Generator,
    *,
    motion: str | None = None,
    objects: int | None = None,
    frames: int = FRAMES,
    size: int = SIZE,
) -> Scene:
    """A scene by chance: what it shows and how it moves are drawn independently of one another.

    Args:
        rng: decides everything that is left open.
        motion: one of `MOTIONS`, of the first thing; any by default.
        objects: 1 or 2; by default one in three scenes has 2.
        frames: how many.
        size: height and width in pixels.

    Raises:
        ValueError: the motion is unknown, there are not 1 or 2 objects, or they find no room: pictures smaller
            than about 15 pixels hold none, and two under a moving camera may need 40.
    """
    if motion is not None and motion not in MOTIONS:
        raise ValueError(f"motion {motion!r} is unknown: choose one of {', '.join(MOTIONS)}")
    if objects not in (None, 1, 2):
        raise ValueError(f"{objects} objects: a scene has 1 or 2")
    motion = motion or str(rng.choice(MOTIONS, p=(0.06, 0.28, 0.26, 0.14, 0.10, 0.16)))
    objects = objects or (2 if rng.random() < 1 / 3 else 1)
    for _ in range(_CAMERAS):
        camera = _camera(rng, motion, frames, size)
        colours = [str(colour) for colour in rng.choice(list(COLOURS), objects, replace=False)]
        for _ in range(_TRIES):
            scene = _drawn(rng, motion, colours, camera, size)
            if _fits(scene):
                return scene
    raise ValueError(
        f"no scene ({motion}, {objects} objects) of {size} x {size} pixels was found in {_CAMERAS * _TRIES} tries: "
        f"give more pixels, {SIZE} suffice, or fewer objects"
    )


def _drawn(rng: np.random.Generator, motion: str, colours: Sequence[str], camera: Camera, size: int) -> Scene:
    """A scene that may not fit."""
    frames, objects = len(camera.zoom), len(colours)
    return Scene(
        things=tuple(
            _thing(rng, motion if i == 0 else _second_motion(rng, motion), colour, frames, size, objects)
            for i, colour in enumerate(colours)
        ),
        pattern=str(rng.choice(PATTERNS)),
        ground=str(rng.choice(list(GROUNDS))),
        phase=float(rng.random()),
        camera=camera,
        motion=motion,
        size=size,
    )


def _second_motion(rng: np.random.Generator, first: str) -> str:
    # Under a moving camera both things stand in the world.
    return first if first == "camera" else str(rng.choice(MOTIONS[:-1], p=(0.2, 0.3, 0.25, 0.15, 0.1)))


def _fits(scene: Scene) -> bool:
    """Whether every thing stays inside the picture and clear of the other."""
    paths, radii = scene.paths, scene.radii
    inside = np.minimum(paths.min(-1), scene.size - 1 - paths.max(-1)) >= 0.9 * radii
    if len(paths) == 1:
        return bool(inside.all())
    apart = np.linalg.norm(paths[0] - paths[1], axis=-1) >= 1.05 * (radii[0] + radii[1])
    return bool(inside.all() and apart.all())


def _ease(rng: np.random.Generator, frames: int) -> Array:
    """Progress from 0 to 1: even, speeding up, slowing down or both."""
    t = np.linspace(0, 1, frames)
    return np.stack([t, t**1.7, 1 - (1 - t) ** 1.7, t * t * (3 - 2 * t)])[rng.choice(4, p=(0.55, 0.15, 0.15, 0.15))]


def _turned(points: Array, angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _straight(rng: np.random.Generator, progress: Array) -> Array:
    length = rng.uniform(16, 44)
    return np.stack([(progress - 0.5) * length, np.zeros_like(progress)], axis=-1)


def _curved(rng: np.random.Generator, progress: Array) -> Array:
    kind = rng.integers(3)
    if kind == 0:  # an arc of a circle
        radius, sweep = rng.uniform(9, 18), rng.uniform(0.6, 1.8) * np.pi * rng.choice((-1, 1))
        return radius * np.stack([np.cos(progress * sweep), np.sin(progress * sweep)], axis=-1)
    length, height = rng.uniform(22, 40), rng.uniform(6, 14) * rng.choice((-1, 1))
    x = (progress - 0.5) * length
    if kind == 1:  # a wave
        return np.stack([x, height * 0.7 * np.sin(2 * np.pi * progress)], axis=-1)
    corner = rng.uniform(0.35, 0.65)  # two straight lines
    return np.stack([x, height * np.minimum(progress / corner, (1 - progress) / (1 - corner))], axis=-1)


def _thing(
    rng: np.random.Generator, motion: str, colour: str, frames: int, size: int, objects: int
) -> Thing:
    progress = _ease(rng, frames)
    radius = np.full(frames, rng.uniform(7.5, 11.0) if objects == 1 else rng.uniform(6.5, 9.0))
    angle = np.full(frames, rng.uniform(-0.2, 0.2))
    path = np.zeros((frames, 2))
    if motion == "straight":
        path = _straight(rng, progress)
    elif motion == "curved":
        path = _curved(rng, progress)
    elif motion == "turning":
        angle = angle + progress * rng.uniform(0.5, 1.5) * np.pi * rng.choice((-1, 1))
        path = _straight(rng, progress) * rng.choice((0.0, 0.7))
    elif motion == "zooming":
        factor = rng.uniform(1.6, 2.2)
        growth = factor ** (progress - 0.5)
        radius = radius * (growth if rng.random() < 0.5 else growth[::-1])
    path = _turned(path, rng.uniform(0, 2 * np.pi))
    path = path - (path.min(0) + path.max(0)) / 2
    reach = np.maximum(0.0, (size - 1) / 2 - radius.max() * 0.9 - np.abs(path).max(0))
    centre = path + (size - 1) / 2 + rng.uniform(-1, 1, 2) * reach
    shape = str(rng.choice(SHAPES))
    return Thing(shape, colour, *(a.astype(np.float32) for a in (centre, radius, angle)))


def _camera(rng: np.random.Generator, motion: str, frames: int, size: int) -> Camera:
    slide, zoom = np.zeros((frames, 2)), np.ones(frames)
    if motion == "camera":
        progress = _ease(rng, frames) - 0.5
        if rng.random() < 0.7:
            curve = np.stack([progress, rng.uniform(-0.6, 0.6) * (1 - 4 * progress**2)], axis=-1)
            slide = _turned(curve * rng.uniform(16, 40), rng.uniform(0, 2 * np.pi))
        else:
            zoom = rng.uniform(1.5, 2.0) ** (progress * rng.choice((-1, 1)))
    return Camera(slide.astype(np.float32), zoom.astype(np.float32))
