"""Video file -> a few evenly spaced frames, with OpenCV.

A file is read from its beginning, twice: once to learn which frames can be decoded and when they are
shown, once to keep the chosen ones. The frame count in a container's header is often an estimate, and
seeking is not exact in every format, so neither is relied on.

Shapes: f frames, h height, w width; colours are RGB. Times are seconds from the first frame.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

_log = logging.getLogger(__name__)

# Containers such as Matroska store times in whole milliseconds.
_TIME_SLACK = 1e-3
# A header that promises a little more than there is: an estimate from the duration, or longer sound.
_COUNT_SLACK = 0.05
_COUNT_SLACK_FRAMES = 2
# Text files that make FFmpeg open other files, or that it would render as pictures of their letters.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")
_SNIFFED_BYTES = 1024
# What an MP4 file consists of; anything else ends the look at its outline.
_MP4_PARTS = {
    b"moov",
    b"mdat",
    b"moof",
    b"ftyp",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"styp",
    b"sidx",
    b"mfra",
    b"meta",
}
# The last frames before a cut may be damaged: the one that was cut, and those decoded from it.
_DOUBTFUL_FRAMES = 4


class VideoError(ValueError):
    """A video file, or a part of it, that cannot serve as a reference."""


class TooFewFramesError(VideoError):
    """The part asked for has fewer frames than were asked for: ``available``."""

    def __init__(self, message: str, available: int) -> None:
        super().__init__(message)
        self.available = available


class TruncatedVideoError(VideoError):
    """A video file that ends before its header says it does."""


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """Evenly spaced frames of a video.

    Attributes:
        images: RGB in 0..1, float32 [f, h, w, 3].
        fps: frames per second at which these frames play in real time.
        source_fps: frames per second that the file states, or its average where it states none.
        indices: which decoded frames of the file they are, counted from 0, ascending.
        source_frames: usable frames of the file, as far as it had to be read to find the range's end.
    """

    images: np.ndarray
    fps: float
    source_fps: float
    indices: tuple[int, ...]
    source_frames: int


@dataclass(frozen=True)
class _Timeline:
    """When each decoded frame is shown; ``promised`` frames and ``fps`` are what the header says."""

    times: tuple[float, ...]
    promised: int
    fps: float
    cut: bool

    @property
    def period(self) -> float:
        """Average seconds per frame."""
        return self.times[-1] / (len(self.times) - 1) if len(self.times) > 1 else 1 / self.fps

    @property
    def length(self) -> float:
        """Seconds until the last decoded frame has been shown."""
        return self.times[-1] + self.period


def read_frames(
    path: str | Path,
    *,
    frames: int,
    start: float = 0.0,
    duration: float = 0.0,
    width: int = 0,
    height: int = 0,
) -> VideoFrames:
    """Read evenly spaced frames of one part of a video; the first and last of that part are among them.

    A part that reaches beyond the end of the video ends with it. Variable frame rates are respected in
    ``start``, ``duration`` and ``fps``; the frames are evenly spaced by their number. Pictures are
    scaled to cover ``width`` x ``height`` and what hangs over is cut off equally on both sides.
    What OpenCV's FFmpeg decodes is read, animated GIF among it, animated WebP not.
    A cut MPEG transport stream does not show that it was cut, so its last frame may be damaged.

    Args:
        path: a video file.
        frames: f, at least 2.
        start: seconds from the first frame.
        duration: seconds; 0 is to the end.
        width, height: w and h in pixels; 0 keeps the file's, or follows the other one's scale.

    Returns:
        The chosen frames and where they come from.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        TruncatedVideoError: the part asked for is missing at the end of a damaged file.
        TooFewFramesError: the part has too few frames.
        VideoError: an option is out of range, or the file is no video.
    """
    _check_options(frames=frames, start=start, duration=duration, width=width, height=height)
    path = Path(path)
    _check_file(path)
    end = start + duration if duration else math.inf
    timeline = _read_timeline(path, end)
    first, stop = _frames_between(timeline, path.name, start, end)
    if stop - first < frames:
        raise TooFewFramesError(_too_few(timeline, path.name, first, stop, frames), stop - first)
    indices = evenly_spaced(first, stop - 1, frames)
    span = timeline.times[indices[-1]] - timeline.times[indices[0]]
    return VideoFrames(
        images=_read_chosen(path, indices, width=width, height=height),
        fps=round((frames - 1) / span, 6),
        source_fps=timeline.fps,
        indices=indices,
        source_frames=len(timeline.times),
    )


def evenly_spaced(first: int, last: int, count: int) -> tuple[int, ...]:
    """``count`` whole numbers from ``first`` to ``last``, both included, each rounded (halves up).

    Args:
        first, last: ``last - first`` is at least ``count - 1``, so that no number comes twice.
        count: at least 2.

    Raises:
        ValueError: there are not that many numbers.
    """
    available = last - first + 1
    if not 2 <= count <= available:
        raise ValueError(f"{count} of {available} frames cannot be chosen: ask for 2 to {available}")
    gaps = count - 1
    return tuple(first + (2 * i * (last - first) + gaps) // (2 * gaps) for i in range(count))


def _check_options(*, frames: int, start: float, duration: float, width: int, height: int) -> None:
    if frames < 2:
        raise VideoError(f"{frames} frames asked for: motion needs at least 2")
    for name, seconds in (("start", start), ("duration", duration)):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise VideoError(f"{name} is {seconds} s: it must be a finite number of seconds, 0 or more")
    for name, pixels in (("width", width), ("height", height)):
        if pixels < 0:
            raise VideoError(f"{name} is {pixels}: it must be a number of pixels, or 0 to keep the video's")


def _check_file(path: Path) -> None:
    """Refuse what FFmpeg should not even be asked to open."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no file {path}: check the name, or upload the video again")
    if path.is_dir():
        raise VideoError(f"{path} is a folder: give the name of a video file in it")
    if not path.is_file():
        raise VideoError(f"{path} is not an ordinary file: give the name of a video file")
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
    if not head:
        raise VideoError(f"{path.name} is empty (0 bytes): copy or upload the video again")
    if head.startswith(_PLAYLISTS) or _is_text(head):
        raise VideoError(
            f"{path.name} is a text file, not a video: choose a file such as .mp4, .webm or .gif"
        )


def _is_text(head: bytes) -> bool:
    # The last bytes may be the first half of a letter.
    return (
        b"\0" not in head and "\N{REPLACEMENT CHARACTER}" not in head.decode("utf-8", errors="replace")[:-1]
    )


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A capture that is released; OpenCV's own errors become `VideoError`."""
    # Other backends take some file names for a camera or for a numbered series of pictures.
    has_ffmpeg = cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends()
    capture = cv2.VideoCapture()
    try:
        if not capture.open(str(path), cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY):
            raise VideoError(_unreadable(path.name))
        yield capture
    except cv2.error as error:
        raise VideoError(f"{_unreadable(path.name)} (OpenCV: {error.err or error})") from None
    finally:
        capture.release()


def _unreadable(name: str) -> str:
    return (
        f"{name} cannot be read as a video: it is no video, its beginning or end is missing, or its codec "
        f"is unknown to OpenCV; copy it again, or convert it to an .mp4 file"
    )


def _read_timeline(path: Path, end: float) -> _Timeline:
    """Decode up to the first frame that is shown at ``end`` or later, keeping only the times."""
    cut = _is_cut_off(path)
    with _opened(path) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        times = _decode_times(capture, math.inf if cut else end)
    if not times:
        raise VideoError(_unreadable(path.name))
    increasing = all(a < b for a, b in itertools.pairwise(times))
    if not (math.isfinite(fps) and fps > 0):
        if not increasing or len(times) < 2:
            raise VideoError(f"{path.name} does not say how fast it plays: convert it to an .mp4 file")
        fps = (len(times) - 1) / (times[-1] - times[0])
    # Raw streams and some old files carry no usable times.
    shown = [t - times[0] for t in times] if increasing else [i / fps for i in range(len(times))]
    sound = max(1, len(shown) - _DOUBTFUL_FRAMES) if cut else len(shown)
    return _Timeline(tuple(shown[:sound]), promised=_plausible_count(promised), fps=fps, cut=cut)


def _decode_times(capture: cv2.VideoCapture, end: float) -> list[float]:
    times: list[float] = []
    while (not times or times[-1] - times[0] < end - _TIME_SLACK) and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return times


def _is_cut_off(path: Path) -> bool:
    """Whether an AVI or MP4 file is shorter than its own outline says.

    FFmpeg hands out the half frame at the cut as if it were whole, and OpenCV does not pass its warning on.
    """
    size = path.stat().st_size
    position = 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            length = _part_length(file.read(16))
            if length is None:
                return False
            position += length
    return position > size


def _part_length(head: bytes) -> int | None:
    """Bytes of the AVI or MP4 part that begins with ``head``; None if it is neither, or open-ended."""
    if head[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")
        return None if length in (0, 2**32 - 1) else 8 + length
    if head[4:8] not in _MP4_PARTS:
        return None
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return length if length >= 8 else None


def _plausible_count(promised: float) -> int:
    """OpenCV answers with huge negative numbers where a header has no count."""
    return int(promised) if math.isfinite(promised) and 0 < promised < 2**31 else 0


def _frames_between(timeline: _Timeline, name: str, start: float, end: float) -> tuple[int, int]:
    """First frame shown at ``start`` or later, and the first at ``end`` or later."""
    _check_whole(timeline, name, end)
    times = timeline.times
    if len(times) == 1 and timeline.promised <= 1:
        raise VideoError(f"{name} has 1 frame and motion needs at least 2: choose a video, not a picture")
    first = bisect_left(times, start - _TIME_SLACK)
    if first == len(times):
        raise VideoError(
            f"start is {start:g} s, beyond the end of {name}, which lasts {timeline.length:.2f} s "
            f"({len(times)} frames): choose an earlier start"
        )
    if timeline.length + timeline.period < end < math.inf:
        _log.warning(
            "%s ends at %.2f s, before the %g s asked for; using what there is", name, timeline.length, end
        )
    return first, bisect_left(times, end - _TIME_SLACK)


def _check_whole(timeline: _Timeline, name: str, end: float) -> None:
    """Refuse a file that breaks off before ``end`` far from where its header says it does."""
    if timeline.cut:
        _log.warning(
            "%s is cut off; its last %d frames are left out, as they may be damaged", name, _DOUBTFUL_FRAMES
        )
    if _breaks_off(timeline) and timeline.length < end - _TIME_SLACK:
        usable = math.floor((timeline.length + _TIME_SLACK) * 100) / 100
        raise TruncatedVideoError(
            f"{name} breaks off: its header promises {timeline.promised} frames and {len(timeline.times)} "
            f"can be used; copy or upload it again, or ask for a part that ends by {usable:g} s"
        )


def _breaks_off(timeline: _Timeline) -> bool:
    sound, promised = len(timeline.times), timeline.promised
    slack = max(_COUNT_SLACK_FRAMES, math.ceil(promised * _COUNT_SLACK))
    if timeline.cut:
        return sound + _DOUBTFUL_FRAMES + slack < promised
    # Where a header holds no count, OpenCV takes duration times rate, too much for a variable rate.
    return sound + slack < promised and timeline.length < (promised - slack) / timeline.fps


def _too_few(timeline: _Timeline, name: str, first: int, stop: int, frames: int) -> str:
    available = stop - first
    fewer = f"{available} frames or fewer, " if available >= 2 else ""
    return (
        f"{frames} frames asked for and {available} there: {name} has {timeline.fps:g} frames per second; "
        f"ask for {fewer}a longer part, or an earlier start"
    )


def _read_chosen(path: Path, indices: tuple[int, ...], *, width: int, height: int) -> np.ndarray:
    """Decode again and keep the frames of ``indices`` (ascending): float32 RGB [f, h, w, 3]."""
    images: np.ndarray | None = None
    position = -1
    with _opened(path) as capture:
        for slot, index in enumerate(indices):
            while position < index and capture.grab():
                position += 1
            decoded, picture = capture.retrieve() if position == index else (False, None)
            if not decoded:
                raise VideoError(
                    f"frame {index} of {path.name} can no longer be decoded: copy or upload it again"
                )
            if images is None:
                size = _target_size(picture, width=width, height=height)
                images = np.empty((len(indices), *size, 3), dtype=np.float32)
            fitted = cv2.cvtColor(_fit(picture, images.shape[1:3]), cv2.COLOR_BGR2RGB)
            np.divide(fitted, 255, out=images[slot], dtype=np.float32)
    return images


def _target_size(picture: np.ndarray, *, width: int, height: int) -> tuple[int, int]:
    """(h, w), where a 0 follows the picture."""
    h, w = picture.shape[:2]
    if not width:
        width = max(1, round(w * height / h)) if height else w
    if not height:
        height = max(1, round(h * width / w))
    return height, width


def _fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the middle of ``size``'s shape out of the picture [h, w, 3], then scale it to ``size``.

    Cutting comes first, so that a very long picture is never blown up whole.
    """
    h, w = picture.shape[:2]
    height, width = size
    kept_w = min(w, max(1, round(h * width / height)))
    kept_h = min(h, max(1, round(w * height / width)))
    top, left = (h - kept_h) // 2, (w - kept_w) // 2
    kept = picture[top : top + kept_h, left : left + kept_w]
    if (kept_h, kept_w) == (height, width):
        return kept
    shrinks = height < kept_h
    return cv2.resize(kept, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
