"""Several videos beside one another, with their names: contact sheets and rows.

Pictures are uint8 RGB, pixel (0, 0) is the top left one and its centre has the coordinates (0, 0).

Shapes used here: f frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import INK, MUTED, Picture, Video, blank, fitting, require_video, wrapped, write


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
    require_video("the video", video)
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
    sheet = blank(
        top + len(panels) * (height + m.gap) - m.gap + m.margin,
        left + len(frames) * (width + m.gap) - m.gap + m.margin,
    )
    for column, frame in enumerate(frames):
        x = left + column * (width + m.gap)
        write(sheet, f"frame {frame + 1}", (x + m.corner, m.margin + m.caption), m.caption, MUTED)
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
    page = blank(m.margin + head + height + m.margin, 2 * m.margin + len(panels) * (width + m.gap) - m.gap)
    spots = [(m.margin + i * (width + m.gap), m.margin + head) for i in range(len(panels))]
    label = min(fitting(panel.label, width, m.label, bold=True) for panel in panels)
    caption = min(fitting(panel.caption, width, m.caption) for panel in panels)
    for panel, (x, y) in zip(panels, spots, strict=True):
        write(page, panel.label, (x, m.margin + round(0.8 * m.label)), label, INK, bold=True)
        write(page, panel.caption, (x, y - round(0.8 * m.caption)), caption, MUTED)
    out = np.repeat(page[None], count, axis=0)
    for i in range(count):
        for panel, spot in zip(panels, spots, strict=True):
            _place(out[i], panel.video[i], spot, m.corner)
    return out


def _with_note(page: Picture, note: str, m: _Measures) -> Picture:
    """The page with small print below it."""
    width = page.shape[1] - 2 * m.margin
    lines = wrapped(note, width, m.caption)
    if not lines:
        return page
    below = page.shape[0] - m.margin + 2 * m.gap
    page = np.concatenate([page, blank(m.gap + round(1.4 * m.caption * len(lines)), page.shape[1])])
    for i, line in enumerate(lines):
        baseline = below + round((1 + 1.4 * i) * m.caption)
        write(page, line, (m.margin, baseline), fitting(line, width, m.caption), MUTED)
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
    lines = [(line, m.label, INK, True) for line in wrapped(panel.label, width, m.label, bold=True)]
    lines += [(line, m.caption, MUTED, False) for line in wrapped(panel.caption, width, m.caption)]
    y = middle - sum(1.35 * size for _, size, _, _ in lines) / 2
    for text, size, colour, bold in lines:
        y += 1.35 * size
        fits = fitting(text, width, size, bold=bold)
        write(sheet, text, (m.margin, round(y - 0.35 * size)), fits, colour, bold=bold)


def _require_panels(panels: Sequence[Panel]) -> tuple[int, int, int]:
    """Frames, height and width that all panels share."""
    if not panels:
        raise ValueError("0 videos are to be shown: at least 1 is needed")
    for panel in panels:
        require_video(f"the video {panel.label!r}", panel.video)
        if panel.video.shape != panels[0].video.shape:
            raise ValueError(
                f"the video {panel.label!r} has the shape {panel.video.shape}, {panels[0].label!r} has "
                f"{panels[0].video.shape}: enlarge or cut them to one shape"
            )
    return panels[0].video.shape[:3]
