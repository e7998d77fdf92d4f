"""Motions and results as pictures: heat maps of a representation, paths, contact sheets.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here:
    f   frames      h, w   cells of a tap's grid      H, W   pixels      o   objects
    p   positions of a tap, h * w      n   heads      k   kept entries per row of attention
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .paths import write_whole
from .representation import MotionRepresentation

Picture = NDArray[np.uint8]  # [H, W, 3]
Video = NDArray[np.uint8]  # [f, H, W, 3]
Intensity = NDArray[np.float32]  # [f, h, w]
Colour = tuple[int, int, int]

# Dark enough to hold a page together in a light theme, light enough to be seen as a card in a dark one.
BACKGROUND: Colour = (24, 28, 36)
INK: Colour = (238, 241, 246)
MUTED: Colour = (152, 162, 178)
OUTLINE: Colour = (12, 14, 18)
PATH_COLOUR: Colour = (64, 232, 244)
COMPARED_COLOUR: Colour = (255, 255, 255)

_HEAT = cv2.COLORMAP_INFERNO  # rises evenly for the eye
_OPACITY = 0.95
# Under a heat map the video is grey, from the first light to the sum of both: the colours are to be the brightest.
_GREY_FLOOR, _GREY_RANGE = 36.0, 110.0
_PERCENTILES = (5.0, 99.5)  # a few stray cells must not decide the scale of all others
_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4


# --- the motion -------------------------------------------------------------------------------------------


def guided_intensity(representation: MotionRepresentation) -> Intensity:
    """Mean of the kept attention, the quantity of the paper's Fig. 3: high where and when something moves.

    ``mean over taps, heads n and kept entries k of L[p, n, i, k]`` for every position p and frame i. Where
    nothing moves all frames look alike and attention is spread evenly, 1 / f; where something passes a frame
    resembles few others, and attention is sharp. So every value lies between 1 / f and 1.

    Args:
        representation: what was kept of the reference's attention.

    Returns:
        ``[f, h, w]``, 0 to 1 (an attention probability), on the largest of the taps' grids; coarser ones are
        interpolated linearly. Each tap counts the same, and each window that holds a frame.
    """
    height, width = max((tap.grid for tap in representation.taps.values()), key=lambda grid: grid[0] * grid[1])
    total = np.zeros((representation.frames, height, width), np.float32)
    seen = np.zeros((representation.frames, 1, 1), np.float32)
    for window, taps in representation.windows.items():
        for tap in taps.values():
            maps = tap.to("cpu").values.float().mean(dim=(1, 3)).T.reshape(tap.frames, *tap.grid).numpy()
            # Linear: a cubic would leave the range of what it interpolates.
            larger = [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in maps]
            total[list(window)] += np.stack(larger)
            seen[list(window)] += 1
    return np.clip(total / seen, 0, 1)


def heat_map(intensity: Intensity, video: Video) -> Video:
    """An intensity in colours over the greyed video; the weaker it is, the more of the video shows.

    The clip's 5th percentile is shown as nothing, its 99.5th as the full colour.

    Args:
        intensity: ``[f, h, w]``, of `guided_intensity`; enlarged by bicubic interpolation.
        video: ``[f, H, W, 3]``.

    Raises:
        ValueError: shapes do not fit, or intensities are not finite.
    """
    _require_video("the video", video)
    _require_intensity(intensity, len(video))
    low, high = (float(x) for x in np.percentile(intensity, _PERCENTILES))
    # A clip without any difference is shown as nothing, not as noise in full colour.
    scale = 1 / (high - low) if high - low > 1e-6 else 1.0
    height, width = video.shape[1:3]
    out = np.empty_like(video)
    for frame, cells, target in zip(video, intensity, out, strict=True):
        smooth = cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        target[:] = _overlaid(frame, np.clip((smooth - low) * scale, 0, 1))
    return out


def _overlaid(frame: Picture, strength: NDArray[np.float32]) -> Picture:
    levels = np.rint(strength * 255).astype(np.uint8)
    hot = cv2.cvtColor(cv2.applyColorMap(levels, _HEAT), cv2.COLOR_BGR2RGB).astype(np.float32)
    grey = _GREY_FLOOR + cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None] * np.float32(_GREY_RANGE / 255)
    return np.rint(grey + _OPACITY * strength[..., None] * (hot - grey)).astype(np.uint8)


# --- size and paths ---------------------------------------------------------------------------------------


def enlarged(video: Video, size: int) -> Video:
    """A small video at a size for people: sharp edges, neither blocks nor halos.

    Lanczos interpolation, held between the darkest and the lightest of the neighbouring pixels, where it would
    otherwise overshoot beside an edge. A video that shrinks is averaged over areas instead.

    Args:
        video: ``[f, H, W, 3]``.
        size: height of the result in pixels; its width follows.

    Raises:
        ValueError: the size is below 1 or the video is none.
    """
    _require_video("the video", video)
    if size < 1:
        raise ValueError(f"a height of {size} pixels was asked for: at least 1 is needed")
    height, width = video.shape[1:3]
    target = (max(1, round(width * size / height)), size)
    return np.stack([_resized(frame, target) for frame in video])


def _resized(frame: Picture, size: tuple[int, int]) -> Picture:
    if size[1] <= frame.shape[0]:
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    around = np.ones((3, 3), np.uint8)
    darkest = cv2.resize(cv2.erode(frame, around), size, interpolation=cv2.INTER_LINEAR)
    lightest = cv2.resize(cv2.dilate(frame, around), size, interpolation=cv2.INTER_LINEAR)
    return np.clip(cv2.resize(frame, size, interpolation=cv2.INTER_LANCZOS4), darkest, lightest)


def draw_paths(
    video: Video,
    paths: NDArray[np.floating],
    *,
    compared: NDArray[np.floating] | None = None,
    measured_in: tuple[int, int] | None = None,
) -> Video:
    """Draw where things go: a line up to the current frame, faint afterwards, and a dot where they are now.

    Args:
        video: ``[f, H, W, 3]``.
        paths: ``[o, f, 2]``, x and y in pixels of a picture of the size ``measured_in``; there may be none.
        compared: other paths to compare with, such as the reference's, same frames; dashed, with a ring.
        measured_in: height and width of the pictures that the paths were measured in, before any enlargement;
            this video's by default.

    Returns:
        A new video of the same shape.

    Raises:
        ValueError: the paths have other frames or another shape, or are not finite.
    """
    _require_video("the video", video)
    height, width = video.shape[1:3]
    from_height, from_width = measured_in or (height, width)
    if min(from_height, from_width) < 1:
        raise ValueError(f"paths measured in {from_width} x {from_height} pixels: at least 1 x 1 is needed")
    scale = np.array([width / from_width, height / from_height])
    ours, others = (
        [] if given is None else [(path + 0.5) * scale - 0.5 for path in _required_paths(given, len(video))]
        for given in (paths, compared)
    )
    pen = max(1.0, height / 90)
    out = video.copy()
    for i in range(len(out)):
        if others:
            out[i] = _traced(out[i], others, i, pen=0.8 * pen, colour=COMPARED_COLOUR, dashed=True)
        if ours:
            out[i] = _traced(out[i], ours, i, pen=pen, colour=PATH_COLOUR, dashed=False)
    return out


def _traced(
    picture: Picture, paths: Sequence[NDArray[np.floating]], frame: int, *, pen: float, colour: Colour, dashed: bool
) -> Picture:
    """One picture with all paths of one kind; ``pen`` is the width of a line in pixels."""
    shape = picture.shape[:2]
    dash = 3.5 * pen if dashed else None
    rest = [line for path in paths for line in _strokes(path, frame, len(path) - 1, dash)]
    past = [line for path in paths for line in _strokes(path, 0, frame, dash)]
    here = [path[frame] for path in paths]
    picture = _painted(picture, _lines(shape, rest, pen), colour, 0.5)
    picture = _painted(picture, _lines(shape, past, 2.2 * pen), OUTLINE, 0.6)
    picture = _painted(picture, _lines(shape, past, pen), colour, 1.0)
    picture = _painted(picture, _dots(shape, here, 2.7 * pen), OUTLINE, 0.85)
    picture = _painted(picture, _dots(shape, here, 2.0 * pen), colour, 1.0)
    # A ring where a dot would hide the one it is compared with.
    return _painted(picture, _dots(shape, here, 1.1 * pen), OUTLINE, 1.0) if dashed else picture


def _strokes(
    path: NDArray[np.floating], first: int, last: int, dash: float | None
) -> list[NDArray[np.floating]]:
    """The lines to draw between two frames of a path: one, or dashes that lie still as the path grows."""
    if dash is None:
        return [path[first : last + 1]]
    steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    walked = np.concatenate([[0.0], np.cumsum(steps)])
    strokes = []
    for start in np.arange(0, walked[-1], 2 * dash):
        begin, end = max(start, walked[first]), min(start + dash, walked[last])
        if begin < end:
            inside = walked[(walked > begin) & (walked < end)]
            along = np.concatenate([[begin], inside, [end]])
            strokes.append(np.stack([np.interp(along, walked, path[:, axis]) for axis in (0, 1)], axis=-1))
    return strokes


def _lines(shape: tuple[int, int], lines: Sequence[NDArray[np.floating]], width: float) -> NDArray[np.float32]:
    """How much of each pixel lines cover, 0 to 1, ``[H, W]``."""
    thickness = max(1, round(width * _SUPERSAMPLING))
    return _cover(
        shape, lambda big, fine: cv2.polylines(big, [fine(line) for line in lines], False, 255, thickness,
                                               cv2.LINE_8, _SUBPIXEL_BITS)
    )


def _dots(shape: tuple[int, int], centres: Sequence[NDArray[np.floating]], radius: float) -> NDArray[np.float32]:
    """How much of each pixel discs cover, 0 to 1, ``[H, W]``."""
    size = round(radius * _SUPERSAMPLING * 2**_SUBPIXEL_BITS)

    def draw(big: NDArray[np.uint8], fine: Callable[..., NDArray[np.int32]]) -> None:
        for x, y in fine(np.array(centres)):
            cv2.circle(big, (int(x), int(y)), size, 255, cv2.FILLED, cv2.LINE_8, _SUBPIXEL_BITS)

    return _cover(shape, draw)


def _cover(shape: tuple[int, int], draw: Callable[..., object]) -> NDArray[np.float32]:
    # OpenCV's own smoothing of thick lines is uneven: drawn large and averaged they are clean at any width.
    big = np.zeros((shape[0] * _SUPERSAMPLING, shape[1] * _SUPERSAMPLING), np.uint8)

    def fine(points: NDArray[np.floating]) -> NDArray[np.int32]:
        moved = ((points + 0.5) * _SUPERSAMPLING - 0.5) * 2**_SUBPIXEL_BITS
        # Far outside the picture is as good as further: OpenCV's fixed point numbers end at 2^31.
        return np.rint(np.clip(moved, -(2**24), 2**24)).astype(np.int32)

    draw(big, fine)
    return cv2.resize(big, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _painted(picture: Picture, cover: NDArray[np.float32], colour: Colour, opacity: float) -> Picture:
    share = opacity * cover[..., None]
    return np.rint(picture + share * (np.array(colour, np.float32) - picture)).astype(np.uint8)


# --- sheets and rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A video with its name.

    Attributes:
        label: what it is, in a word or two.
        video: ``[f, H, W, 3]``.
        caption: one short line more, such as the prompt.
    """

    label: str
    video: Video
    caption: str = ""


@dataclass(frozen=True)
class _Measures:
    """Distances and sizes of letters in pixels; all follow from the height of a panel."""

    panel: int

    @property
    def margin(self) -> int:
        return max(4, round(self.panel / 11))

    @property
    def gap(self) -> int:
        return max(2, round(self.panel / 32))

    @property
    def label(self) -> int:
        return max(9, round(self.panel / 10.5))

    @property
    def caption(self) -> int:
        return max(8, round(self.panel / 13.5))

    @property
    def corner(self) -> int:
        return round(self.panel / 36)

    @property
    def side(self) -> int:
        """Width of the column of names."""
        return round(self.panel * 0.95)


def contact_sheet(panels: Sequence[Panel], frames: Sequence[int], *, note: str = "") -> Picture:
    """One picture of several videos: a row for each, with its name to the left, and a column for each frame.

    Args:
        panels: the rows, from the top; videos of one size and number of frames.
        frames: which frames to show, from 0. People read them from 1.
        note: a line below, such as what the colours of the paths mean.

    Returns:
        ``[H', W', 3]``. Distances and letters grow with the height of the videos; 200 pixels or more read well.

    Raises:
        ValueError: nothing to show, videos that differ in shape, or a frame that they do not have.
    """
    count, height, width = _require_panels(panels)
    wrong = [frame for frame in frames if not 0 <= frame < count]
    if wrong or not len(frames):
        raise ValueError(f"frame {wrong[0]} of videos of {count} frames" if wrong else "0 frames are to be shown")
    m = _Measures(height)
    top, left = m.margin + 2 * m.caption, m.margin + m.side
    sheet = _blank(
        top + len(panels) * (height + m.gap) - m.gap + m.margin,
        left + len(frames) * (width + m.gap) - m.gap + m.margin,
    )
    for column, frame in enumerate(frames):
        x = left + column * (width + m.gap)
        _write(sheet, f"frame {frame + 1}", (x + m.corner, m.margin + m.caption), m.caption, MUTED)
        for row, panel in enumerate(panels):
            _place(sheet, panel.video[frame], (x, top + row * (height + m.gap)), m.corner)
    for row, panel in enumerate(panels):
        _name_beside(sheet, panel, top + row * (height + m.gap) + height // 2, m)
    return _with_note(sheet, note, m)


def side_by_side(panels: Sequence[Panel]) -> Video:
    """Several videos in a row, with their names above, as one video.

    Args:
        panels: from the left; videos of one size and number of frames. Without any label or caption there is no
            space above, so that rows can be stacked under a row that has them.

    Returns:
        ``[f, H', W', 3]``.

    Raises:
        ValueError: nothing to show, or videos that differ in shape.
    """
    count, height, width = _require_panels(panels)
    m = _Measures(height)
    head = round(1.5 * m.label) if any(panel.label for panel in panels) else 0
    head += round(1.6 * m.caption) if any(panel.caption for panel in panels) else 0
    page = _blank(m.margin + head + height + m.margin, 2 * m.margin + len(panels) * (width + m.gap) - m.gap)
    spots = [(m.margin + i * (width + m.gap), m.margin + head) for i in range(len(panels))]
    label = min(_fitting(panel.label, width, m.label, bold=True) for panel in panels)
    caption = min(_fitting(panel.caption, width, m.caption) for panel in panels)
    for panel, (x, y) in zip(panels, spots, strict=True):
        _write(page, panel.label, (x, m.margin + round(0.8 * m.label)), label, INK, bold=True)
        _write(page, panel.caption, (x, y - round(0.8 * m.caption)), caption, MUTED)
    out = np.repeat(page[None], count, axis=0)
    for i in range(count):
        for panel, spot in zip(panels, spots, strict=True):
            _place(out[i], panel.video[i], spot, m.corner)
    return out


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _with_note(page: Picture, note: str, m: _Measures) -> Picture:
    """The page with small print below it."""
    width = page.shape[1] - 2 * m.margin
    lines = _wrapped(note, width, m.caption)
    if not lines:
        return page
    below = page.shape[0] - m.margin + 2 * m.gap
    page = np.concatenate([page, _blank(m.gap + round(1.4 * m.caption * len(lines)), page.shape[1])])
    for i, line in enumerate(lines):
        baseline = below + round((1 + 1.4 * i) * m.caption)
        _write(page, line, (m.margin, baseline), _fitting(line, width, m.caption), MUTED)
    return page


def _place(sheet: Picture, picture: Picture, spot: tuple[int, int], corner: int) -> None:
    """Put a picture with round corners at x, y."""
    height, width = picture.shape[:2]
    x, y = np.arange(width), np.arange(height)[:, None]
    beyond_x = np.maximum(np.maximum(corner - 0.5 - x, x - (width - 0.5 - corner)), 0)
    beyond_y = np.maximum(np.maximum(corner - 0.5 - y, y - (height - 0.5 - corner)), 0)
    cover = np.clip(corner + 0.5 - np.hypot(beyond_x, beyond_y), 0, 1).astype(np.float32)
    target = sheet[spot[1] : spot[1] + height, spot[0] : spot[0] + width]
    target[:] = np.rint(target + cover[..., None] * (picture.astype(np.float32) - target)).astype(np.uint8)


def _name_beside(sheet: Picture, panel: Panel, middle: int, m: _Measures) -> None:
    """Label and caption in the column to the left, centred on the row's ``middle``."""
    width = m.side - 2 * m.gap
    lines = [(line, m.label, INK, True) for line in _wrapped(panel.label, width, m.label, bold=True)]
    lines += [(line, m.caption, MUTED, False) for line in _wrapped(panel.caption, width, m.caption)]
    y = middle - sum(1.35 * size for _, size, _, _ in lines) / 2
    for text, size, colour, bold in lines:
        y += 1.35 * size
        fitting = _fitting(text, width, size, bold=bold)
        _write(sheet, text, (m.margin, round(y - 0.35 * size)), fitting, colour, bold=bold)


# --- letters ----------------------------------------------------------------------------------------------


def _write(
    sheet: Picture, text: str, at: tuple[int, int], size: int, colour: Colour, *, bold: bool = False
) -> None:
    """Write a line, its baseline beginning at x, y."""
    if hasattr(cv2, "FontFace"):  # OpenCV 5 brings a real typeface
        cv2.putText(sheet, text, at, colour, cv2.FontFace("sans"), size, 600 if bold else 400)
    else:
        cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, *_stroke(size, colour, bold), cv2.LINE_AA)


def _text_width(text: str, size: int, bold: bool) -> int:
    if hasattr(cv2, "FontFace"):
        weight = 600 if bold else 400
        return cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)[2]
    scale, _, thickness = _stroke(size, INK, bold)
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]


def _fitting(text: str, width: int, size: int, *, bold: bool = False) -> int:
    """The size, or the smaller one at which the text is no wider than ``width``."""
    return max(6, int(size * min(1.0, width / max(1, _text_width(text, size, bold)))))


def _stroke(size: int, colour: Colour, bold: bool) -> tuple[float, Colour, int]:
    # Capitals of that typeface are 21 pixels high at scale 1; here, as usual, 0.7 of the size.
    return 0.7 * size / 21, colour, max(1, round(size / (11 if bold else 18)))


def _wrapped(text: str, width: int, size: int, *, bold: bool = False) -> list[str]:
    """The text in lines that fit, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", size, bold) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


# --- files ------------------------------------------------------------------------------------------------


def write_picture(picture: Picture, path: Path) -> None:
    """Write a PNG; whole or not at all.

    Args:
        picture: ``[H, W, 3]``.
        path: a ``.png`` file; its folder is made if it is missing.

    Raises:
        ValueError: the picture or the name's ending does not fit.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a picture is written as .png, not as {path.suffix or 'a file without ending'!r}")
    if np.ndim(picture) != 3:
        raise ValueError(f"a picture has 3 axes [height, width, 3], got {np.shape(picture)}")
    _require_video("the picture", picture[None])
    _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write_whole(path, content.tobytes())


# --- what is refused --------------------------------------------------------------------------------------


def _require_video(what: str, video: Video) -> None:
    shape, dtype = np.shape(video), getattr(video, "dtype", type(video).__name__)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape or dtype != np.uint8:
        raise ValueError(f"{what} must be uint8 RGB [frames, height, width, 3], got {dtype} {shape}")


def _require_intensity(intensity: Intensity, frames: int) -> None:
    shape = np.shape(intensity)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"an intensity has 3 axes [frames, height, width], got {shape}")
    if shape[0] != frames:
        raise ValueError(f"the intensity has {shape[0]} frames, the video has {frames}")
    if not np.isfinite(intensity).all():
        raise ValueError(f"{np.sum(~np.isfinite(intensity))} of {np.size(intensity)} intensities are not finite")


def _required_paths(paths: NDArray[np.floating], frames: int) -> NDArray[np.float64]:
    paths = np.asarray(paths, np.float64)
    if paths.ndim != 3 or paths.shape[2] != 2:
        raise ValueError(f"paths must be [objects, frames, 2], got {paths.shape}")
    if paths.shape[1] != frames:
        raise ValueError(f"the paths have {paths.shape[1]} frames, the video has {frames}")
    if not np.isfinite(paths).all():
        raise ValueError(f"{np.sum(~np.isfinite(paths))} of {paths.size} coordinates are not finite")
    return paths


def _require_panels(panels: Sequence[Panel]) -> tuple[int, int, int]:
    """Frames, height and width that all panels share."""
    if not panels:
        raise ValueError("0 videos are to be shown: at least 1 is needed")
    for panel in panels:
        _require_video(f"the video {panel.label!r}", panel.video)
        if panel.video.shape != panels[0].video.shape:
            raise ValueError(
                f"the video {panel.label!r} has the shape {panel.video.shape}, {panels[0].label!r} has "
                f"{panels[0].video.shape}: enlarge or cut them to one shape"
            )
    return panels[0].video.shape[:3]
