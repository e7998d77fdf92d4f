"""How well a result follows its reference: all scores of one video put together, in words, and the best of several.

Shapes: f frames, h, w height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .metrics import (
    Tracks,
    frechet_distance,
    motion_fidelity,
    motion_magnitude,
    temporal_consistency,
    track_points,
)

Criterion = Literal["motion fidelity", "trajectory distance", "both"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

# A video that moves less than this share of what the reference moves stands still beside it.
STANDING_SHARE = 0.1
# A frame whose values of each colour differ by no more levels of 255 than this shows nothing: black, or of one colour.
# Two levels are what rounding and the noise of a compressed black frame leave.
_BLANK_LEVELS = 2
_BLANK_CURE = (
    "The decode may have failed: run the VAE in fp32 (start ComfyUI with --fp32-vae), and look for values that are "
    "not finite in the sampler's log."
)
_STILL_REFERENCE = "The reference does not move, or shows nothing that can be followed."


class NotFiniteError(ValueError):
    """A video that holds nan or infinite values."""


@dataclass(frozen=True, eq=False)
class TrackedVideo:
    """A video and the points that were followed through it.

    Attributes:
        frames: uint8 RGB [f, h, w, 3].
        tracks: of these frames.
    """

    frames: NDArray[np.uint8]
    tracks: Tracks

    @classmethod
    def of(cls, images: np.ndarray, name: str) -> TrackedVideo:
        """Follow the points of a video.

        Args:
            images: [f, h, w, 3 or 4], 0 to 1 (what lies outside is cut off); a fourth channel is left out.
            name: what to call it in a message, such as ``the reference``.

        Raises:
            NotFiniteError: it holds nan or infinite values.
            ValueError: it is no such video, has one frame, or is too small.
        """
        if images.ndim != 4 or images.shape[-1] not in (3, 4) or not images.size:
            raise ValueError(f"{name} is {images.shape}: give frames of [frames, height, width, 3]")
        if len(images) < 2:
            raise ValueError(f"{name} has {len(images)} frame and motion needs at least 2: give all of its frames")
        colours = images[..., :3]
        bad = np.count_nonzero(~np.isfinite(colours))
        if bad:
            raise NotFiniteError(
                f"{bad} of {colours.size} values of {name} are not finite, as when sampling overflows: lower the "
                "guidance's weight, set a limit, or run the model or the VAE in a wider type"
            )
        frames = np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8)
        return cls(frames, _tracked(frames, name))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def blank_frames(self) -> int:
        """How many frames show nothing: each of their colours differs by at most 2 levels of 255 all over the frame."""
        return sum(int(np.ptp(frame.reshape(-1, 3), axis=0).max()) <= _BLANK_LEVELS for frame in self.frames)


def _tracked(frames: NDArray[np.uint8], name: str) -> Tracks:
    try:
        return track_points(frames)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@dataclass(frozen=True)
class ClipScore:
    """What CLIP says of a video; None where it was not asked.

    Attributes:
        textual_alignment: mean cosine of every frame and the prompt, -1 to 1.
        consistency: mean cosine of neighbouring frames, -1 to 1.
        notes: what one should know beside them.
    """

    textual_alignment: float | None = None
    consistency: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MotionScore:
    """How one video follows a reference.

    Attributes:
        motion_fidelity: -1 to 1, 1 for the same motion; see `metrics.motion_fidelity`.
        trajectory_distance: 0 for the same paths, in diagonals of the frame; see `metrics.frechet_distance`.
        motion_magnitude: how far a point of the video moves from frame to frame, in diagonals.
        reference_magnitude: the same of the reference.
        temporal_consistency: 1 for a frozen video; see `metrics.temporal_consistency`.
        reference_consistency: the same of the reference.
        frames: of both.
        size, reference_size: height and width of the video and of the reference.
        blank_frames, reference_blank_frames: how many frames of each show nothing; see `TrackedVideo.blank_frames`.
        clip: what CLIP says.
    """

    motion_fidelity: float
    trajectory_distance: float
    motion_magnitude: float
    reference_magnitude: float
    temporal_consistency: float
    reference_consistency: float
    frames: int
    size: tuple[int, int]
    reference_size: tuple[int, int]
    blank_frames: int = 0
    reference_blank_frames: int = 0
    clip: ClipScore = ClipScore()

    @property
    def stands_still(self) -> bool:
        """Whether the video hardly moves though the reference does: less than a tenth as far."""
        return self.motion_magnitude < STANDING_SHARE * self.reference_magnitude

    @property
    def notes(self) -> tuple[str, ...]:
        """What one should know beside the numbers, a sentence each."""
        notes = []
        if self.blank_frames:
            blank = f"{self.blank_frames} of {self.frames} frames of the video show nothing (black?)"
            notes.append(f"{blank}: its scores mean little. {_BLANK_CURE}")
        if self.stands_still:
            notes.append("The video hardly moves: a still video is consistent, and follows nothing.")
        notes += self.reference_notes
        if self.size != self.reference_size:
            (h, w), (rh, rw) = self.size, self.reference_size
            notes.append(
                f"The video is {w} x {h} and the reference {rw} x {rh}: displacements are compared in diagonals of "
                "each, places in widths and heights of each."
            )
        return (*notes, *self.clip.notes)

    @property
    def reference_notes(self) -> tuple[str, ...]:
        """What one should know of the reference, whatever the video."""
        notes = []
        if self.reference_blank_frames:
            blank = f"{self.reference_blank_frames} of {self.frames} frames of the reference show nothing (black?)"
            notes.append(f"{blank}: choose a part in which every frame shows something.")
        if not self.reference_magnitude:
            notes.append(_STILL_REFERENCE)
        return tuple(notes)

    def report(self) -> str:
        """A table of all scores, and the notes below it."""
        rows = [
            ("", "video", "reference"),
            ("motion fidelity", f"{self.motion_fidelity:.4f}", "1"),
            ("trajectory distance", f"{self.trajectory_distance:.4f}", "0"),
            ("motion magnitude", f"{self.motion_magnitude:.4f}", f"{self.reference_magnitude:.4f}"),
            ("temporal consistency", f"{self.temporal_consistency:.4f}", f"{self.reference_consistency:.4f}"),
        ]
        said = (("CLIP consistency", self.clip.consistency), ("textual alignment", self.clip.textual_alignment))
        rows += [(name, f"{value:.4f}", "") for name, value in said if value is not None]
        return "\n".join([_table(rows), *self.notes])


def score_motion(reference: TrackedVideo, video: TrackedVideo, *, clip: ClipScore | None = None) -> MotionScore:
    """All scores of a video against its reference.

    The sizes may differ. What cannot be followed, such as black frames, is taken for still; frames that show nothing
    are counted.

    Raises:
        ValueError: the numbers of frames differ.
    """
    require_same_length(reference, video, "the video")
    return MotionScore(
        motion_fidelity=motion_fidelity(reference.tracks, video.tracks),
        trajectory_distance=frechet_distance(reference.tracks, video.tracks),
        motion_magnitude=motion_magnitude(video.tracks),
        reference_magnitude=motion_magnitude(reference.tracks),
        temporal_consistency=temporal_consistency(video.frames),
        reference_consistency=temporal_consistency(reference.frames),
        frames=len(video.frames),
        size=video.size,
        reference_size=reference.size,
        blank_frames=video.blank_frames,
        reference_blank_frames=reference.blank_frames,
        clip=clip or ClipScore(),
    )


def require_same_length(reference: TrackedVideo, video: TrackedVideo, name: str) -> None:
    """`ValueError` with both numbers if the frames of one cannot stand beside those of the other."""
    wanted, found = len(reference.frames), len(video.frames)
    if wanted != found:
        raise ValueError(
            f"the reference has {wanted} frames and {name} {found}: give as many frames of the reference as the video "
            "has, or cut the longer one"
        )


# --- the best of several ------------------------------------------------------------------------------------


def best_of(scores: Sequence[MotionScore | None], by: Criterion) -> int:
    """Which of several videos follows the reference best, counted from 0.

    Videos with frames that show nothing come last, whatever their scores and whatever the reference shows: a black
    video follows a still or black reference perfectly. Of these, the fewer such frames the better. Before them come
    those that hardly move while the reference does: a still video is never far from a short path. Among the others,
    by ``motion fidelity`` the highest wins, by ``trajectory distance`` the lowest; ``both`` adds up the places in both
    orders, and the higher fidelity decides between equal sums. Of equals the first one wins.

    Args:
        scores: None for a video that could not be scored; it cannot win.
        by: one of `CRITERIA`.

    Raises:
        ValueError: no videos were given, none could be scored, or the criterion is unknown.
    """
    if by not in CRITERIA:
        raise ValueError(f"{by!r} is no way to choose: take one of {', '.join(CRITERIA)}")
    if not scores:
        raise ValueError("0 videos were given: give at least 1 to choose from")
    scored = {i: score for i, score in enumerate(scores) if score is not None}
    if not scored:
        raise ValueError(f"0 of {len(scores)} videos could be scored: all hold values that are not finite")
    fidelity = {i: -score.motion_fidelity for i, score in scored.items()}
    distance = {i: score.trajectory_distance for i, score in scored.items()}
    keys = {"motion fidelity": fidelity, "trajectory distance": distance, "both": _places(fidelity, distance)}[by]
    return min(scored, key=lambda i: (scored[i].blank_frames, scored[i].stands_still, keys[i], fidelity[i], i))


def _places(*orders: dict[int, float]) -> dict[int, float]:
    """Sum of the places in several orders; equals share a place."""
    return {i: float(sum(sum(other < order[i] for other in order.values()) for order in orders)) for i in orders[0]}


def comparison(scores: Sequence[MotionScore | None], chosen: int, seeds: Sequence[int] | None = None) -> str:
    """A table of several videos' scores, with a star at the chosen one.

    Raises:
        ValueError: there are not as many seeds as scores.
    """
    require_seeds(seeds, len(scores))
    names = [str(i) for i in range(len(scores))] if seeds is None else [str(seed) for seed in seeds]
    rows = [("", "index" if seeds is None else "seed", "fidelity", "distance", "magnitude", "consistency")]
    for i, (name, score) in enumerate(zip(names, scores, strict=True)):
        mark = "*" if i == chosen else ""
        if score is None:
            rows.append((mark, name, "not finite", "", "", ""))
            continue
        numbers = (score.motion_fidelity, score.trajectory_distance, score.motion_magnitude, score.temporal_consistency)
        rows.append((mark, name, *(f"{number:.4f}" for number in numbers)))
    first = next(score for score in scores if score is not None)
    numbers = ("1", "0", f"{first.reference_magnitude:.4f}", f"{first.reference_consistency:.4f}")
    notes = (*_chosen_last(names, scores), *first.reference_notes)
    return "\n".join([_table([*rows, ("", "reference", *numbers)]), *notes])


def require_seeds(seeds: Sequence[int] | None, videos: int) -> None:
    """`ValueError` with both numbers if there is not a seed for each video; None is no seeds."""
    if seeds is not None and len(seeds) != videos:
        raise ValueError(f"{len(seeds)} seeds for {videos} videos: wire both from the same Motion Seeds")


def _chosen_last(names: Sequence[str], scores: Sequence[MotionScore | None]) -> list[str]:
    """Which videos have a fault that counts more than scores, a sentence for each fault."""
    scored = [(name, score) for name, score in zip(names, scores, strict=True) if score is not None]
    still = [name for name, score in scored if score.stands_still and not score.blank_frames]
    blank = [f"{name} ({score.blank_frames} of {score.frames})" for name, score in scored if score.blank_frames]
    notes = [f"Hardly moving, so chosen last: {', '.join(still)}."] if still else []
    if blank:
        notes.append(f"Frames that show nothing (black?), so chosen last of all: {', '.join(blank)}. {_BLANK_CURE}")
    return notes


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # Names to the left, numbers to the right.
    lines = ["  ".join((row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:]))) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
