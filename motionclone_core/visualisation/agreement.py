"""Two videos side by side with their tracks over them, in one colour where they move alike.

Pictures are uint8 RGB. Shapes: f frames, H, W height and width in pixels, n tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..metrics import Tracks, track_agreement
from .canvas import BACKGROUND, INK, MUTED, OUTLINE, Colour, Picture, Video
from .sheets import Panel, enlarged, side_by_side

Array = NDArray[np.float64]

# Letters and lines want room; more than this only costs memory.
_SMALLEST, _LARGEST = 384, 768
# Two such panels with their margins stay below 2048 pixels: a wide video must not grow past what WebP can hold.
_WIDEST = 940
_NARROWEST = 240  # of both sides of a panel: the letters follow from its height, and a caption goes into its width
_MOVING_TRACKS, _STILL_TRACKS = 28, 24  # more than these hide the picture
_MOVING_LENGTH = 0.01  # of the diagonal, over the whole video
_ALIKE = 0.5  # from this agreement on two tracks are shown as partners
_NEARLY = 0.1  # agreements that differ by less are equal, and the nearer track is the partner
_TAIL = 5  # frames
_LIGHTNESS, _CHROMA = 76.0, 62.0  # of all colours, CIE LCh: none stands out
_FINE, _BITS = 2, 4  # supersampling; parts of a pixel that OpenCV is given, as a power of 2


def draw_tracks(
    reference: Video, video: Video, tracks: tuple[Tracks, Tracks], *, captions: tuple[str, str] = ("", "")
) -> Video:
    """Both videos with their tracks: a line over the whole path, brighter where a point has just been, and a dot.

    A track of the reference has a colour by where it is, around the middle of all that moves. A track of the video
    has the colour of the one of the reference that moves most alike; of several, of the nearest. White is what has no
    partner that moves alike. What stands still is a small grey dot. Shown are the longest tracks, evenly spread.

    Args:
        reference, video: [f, H, W, 3]; sizes may differ, the numbers of frames may not.
        tracks: of the reference and of the video.
        captions: a short line over each.

    Returns:
        [f, H', W', 3], W' below 2048: each video scaled to one height of 384 to 768, or to a width of 940 where it
        would be wider.

    Raises:
        ValueError: the videos and their tracks have not one number of frames.
    """
    counts = {len(reference), len(video), *(one.points.shape[1] for one in tracks)}
    if len(counts) > 1:
        raise ValueError(f"videos and tracks of {sorted(counts)} frames: they must have one number of frames")
    height = min(_LARGEST, max(_SMALLEST, len(reference[0]), len(video[0])))
    drawn = [
        _drawn(enlarged(given, _fitting_height(given, height)), one, colours)
        for given, one, colours in zip((reference, video), tracks, _colours(*tracks), strict=True)
    ]
    size = tuple(max(_NARROWEST, *(one.shape[axis] for one in drawn)) for axis in (1, 2))
    names = ("reference", "video")
    return side_by_side([Panel(n, _centred(d, size), c) for n, d, c in zip(names, drawn, captions, strict=True)])


def _fitting_height(video: Video, height: int) -> int:
    """The height, or less where the video would be wider than a panel may be."""
    return max(1, min(height, _WIDEST * video.shape[1] // video.shape[2]))


def _centred(video: Video, size: tuple[int, int]) -> Video:
    """In the middle of a panel of this height and width."""
    top, left = ((whole - part) // 2 for whole, part in zip(size, video.shape[1:3], strict=True))
    out = np.empty((len(video), *size, 3), np.uint8)
    out[:] = BACKGROUND
    out[:, top : top + video.shape[1], left : left + video.shape[2]] = video
    return out


# --- colours --------------------------------------------------------------------------------------------------


def _colours(reference: Tracks, video: Tracks) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A colour for each track, [n, 3]."""
    moving, places = _moves(reference), _places(reference)
    own = _by_place(places, moving)
    ours, theirs = own.copy(), np.empty((len(video.points), 3), np.uint8)
    ours[track_agreement(reference, video).max(axis=1) < _ALIKE] = INK
    theirs[:] = INK
    if moving.any():
        agreement = track_agreement(video, reference)[:, moving]
        best = agreement.max(axis=1, keepdims=True)
        apart = np.linalg.norm(_places(video)[:, None] - places[None, moving], axis=-1)
        partner = np.where(agreement >= best - _NEARLY, apart, np.inf).argmin(axis=1)
        found = best[:, 0] >= _ALIKE
        theirs[found] = own[moving][partner[found]]
    return ours, theirs


def _by_place(places: Array, moving: NDArray[np.bool_]) -> NDArray[np.uint8]:
    middle = places[moving].mean(axis=0) if moving.any() else places.mean(axis=0)
    angle = np.arctan2(*(places - middle).T[::-1])
    lab = np.stack([np.full_like(angle, _LIGHTNESS), _CHROMA * np.cos(angle), _CHROMA * np.sin(angle)], axis=-1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _moves(tracks: Tracks) -> NDArray[np.bool_]:
    return _lengths(tracks) > _MOVING_LENGTH


def _lengths(tracks: Tracks) -> Array:
    """How far each track goes in all, in diagonals."""
    return np.linalg.norm(tracks.steps, axis=-1).sum(axis=1)


def _places(tracks: Tracks) -> Array:
    """Where each track is in the mean over the frames that it is seen in, in widths and heights, [n, 2]."""
    seen = tracks.visible[..., None]
    return np.where(seen, tracks.points, 0).sum(axis=1) / seen.sum(axis=1) / tracks.size[::-1]


# --- choice ---------------------------------------------------------------------------------------------------


def _chosen(tracks: Tracks, among: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """Tracks that are long, seen often and far from one another."""
    indices = np.flatnonzero(among)
    if len(indices) <= count:
        return indices
    worth = _lengths(tracks)[indices] * tracks.visible[indices].mean(axis=1) + 1e-6
    places = _places(tracks)[indices]
    kept = [int(worth.argmax())]
    apart = np.full(len(indices), np.inf)
    while len(kept) < count:
        apart = np.minimum(apart, np.linalg.norm(places - places[kept[-1]], axis=-1))
        kept.append(int((apart * np.sqrt(worth)).argmax()))
    return indices[kept]


# --- drawing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Path:
    points: Array  # [f, 2], in pixels of the picture that is drawn on
    visible: NDArray[np.bool_]  # [f]
    colour: Colour

    def strokes(self, first: int, last: int) -> list[Array]:
        """The lines between two frames, with gaps where the point is not seen."""
        strokes: list[Array] = []
        start = first
        for frame in range(first, last + 2):
            if frame > last or not self.visible[frame]:
                if frame - start > 1:
                    strokes.append(self.points[start:frame])
                start = frame + 1
        return strokes


def _drawn(video: Video, tracks: Tracks, colours: NDArray[np.uint8]) -> Video:
    height, width = video.shape[1:3]
    scale = np.array([width / tracks.size[1], height / tracks.size[0]])
    points = (tracks.points.astype(np.float64) + 0.5) * scale - 0.5
    moving = _moves(tracks)
    groups = [
        [_Path(points[i], tracks.visible[i], tuple(map(int, colours[i]))) for i in _chosen(tracks, among, count)]
        for among, count in ((moving, _MOVING_TRACKS), (~moving, _STILL_TRACKS))
    ]
    return np.stack([_frame(picture, i, *groups) for i, picture in enumerate(video)])


def _frame(picture: Picture, frame: int, moving: list[_Path], still: list[_Path]) -> Picture:
    height, width = picture.shape[:2]
    pen = max(1.2, min(height, 2 * width) / 230)  # dots must not cover a narrow picture
    canvas = cv2.resize(_muted(picture), None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_NEAREST)
    last = len(moving[0].points) - 1 if moving else frame
    for first, end, breadth, opacity in (
        (frame, last, 0.8, 0.3), (0, frame, 1.2, 0.65), (max(0, frame - _TAIL), frame, 1.7, 1.0),
    ):  # fmt: skip
        under = 0.5 * opacity if end == frame else 0.0
        _blended(canvas, under, lambda c, f=first, e=end, w=breadth: _lines(c, moving, f, e, (w + 1.3) * pen, OUTLINE))
        _blended(canvas, opacity, lambda c, f=first, e=end, w=breadth: _lines(c, moving, f, e, w * pen))
    _blended(canvas, 0.6, lambda c: _dots(c, still, frame, 1.4 * pen, MUTED))
    _dots(canvas, moving, frame, 3.4 * pen, OUTLINE)
    _dots(canvas, moving, frame, 2.5 * pen)
    return cv2.resize(canvas, picture.shape[1::-1], interpolation=cv2.INTER_AREA)


def _muted(picture: Picture) -> Picture:
    """Darker and greyer, so that colours of tracks are not mistaken for the video's."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(picture, 0.45, grey, 0.3, 0)


def _blended(canvas: Picture, opacity: float, draw: Callable[[Picture], None]) -> None:
    if opacity:
        over = canvas.copy()
        draw(over)
        canvas[:] = cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0)


def _lines(
    canvas: Picture, paths: list[_Path], first: int, last: int, width: float, colour: Colour | None = None
) -> None:
    for path in paths:
        lines = [_fixed(stroke) for stroke in path.strokes(first, last)]
        cv2.polylines(canvas, lines, False, colour or path.colour, max(1, round(width * _FINE)), cv2.LINE_AA, _BITS)


def _dots(canvas: Picture, paths: list[_Path], frame: int, radius: float, colour: Colour | None = None) -> None:
    for path in paths:
        if path.visible[frame]:
            x, y = (int(v) for v in _fixed(path.points[frame]))
            size = round(radius * _FINE * 2**_BITS)
            cv2.circle(canvas, (x, y), size, colour or path.colour, cv2.FILLED, cv2.LINE_AA, _BITS)


def _fixed(points: Array) -> NDArray[np.int32]:
    """Pixels of the video as OpenCV's fixed point numbers on the larger canvas."""
    return np.rint(((points + 0.5) * _FINE - 0.5) * 2**_BITS).astype(np.int32)
