"""Scores of how one video follows the motion of another, from point tracks; nothing is downloaded.

Common code for such scores divides 0 by 0 where nothing moves, looks one way only and does not see speed.
The scores here are finite for every video, symmetric, and count speed. What they still cannot see: a frozen
video is perfectly consistent, so `temporal_consistency` is reported beside `motion_magnitude`; and tracks
follow corners, so a small thing in front of a rich background has few of them.

Shapes: f frames, h, w height and width in pixels, n points, o objects. Videos are RGB, uint8 [f, h, w, 3].
Coordinates are pixels, x to the right and y down, (0, 0) the middle of the top left pixel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

# DIS needs room for patches of 8 pixels at two scales.
_SMALLEST_SIDE = 16
# Small videos are enlarged to this short side, as the tracker's window is larger than what they show.
_TRACKED_SIDE = 256
_CORNER_QUALITY = 0.01
_GRID = 8
_LUCAS_KANADE = {
    "winSize": (21, 21),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01),
}
_COLOUR_GRIDS = (4, 8, 16)
# Contrast (share of the range of lightness) from which fine detail counts in full.
_DETAIL_CONTRAST = 0.1
# Energies added to both sides of a cosine: what differs by less than this is nothing to compare.
_COLOUR_FLOOR = 0.001
_DETAIL_FLOOR = 0.05
# Share of the true velocity below which a found one is nothing that has a direction.
_STANDING_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Tracks:
    """Points followed through a video.

    Attributes:
        points: x and y in pixels, float32 [n, f, 2]; where a point is not visible, anything.
        visible: bool [n, f].
        size: (h, w) of the video.

    Raises:
        ValueError: the shapes or types do not fit, no point is visible in two neighbouring frames, or a visible
            point has no finite position.
    """

    points: np.ndarray
    visible: np.ndarray
    size: tuple[int, int]

    def __post_init__(self) -> None:
        points, visible = self.points, self.visible
        if points.ndim != 3 or points.shape[2] != 2 or points.shape[:2] != visible.shape:
            raise ValueError(
                f"points are {points.shape} and visible is {visible.shape}: they must be (n, f, 2) and (n, f)"
            )
        if visible.dtype != bool:
            raise ValueError(f"visible is {visible.dtype}: it must be bool, as numbers would pick points")
        if points.shape[0] < 1 or points.shape[1] < 2:
            raise ValueError(
                f"{points.shape[0]} tracks of {points.shape[1]} frames: give at least 1 of 2 frames"
            )
        if min(self.size) < 1:
            raise ValueError(
                f"size is {self.size[0]} x {self.size[1]}: it must be the video's height and width"
            )
        bad = np.count_nonzero(~np.isfinite(points[visible]))
        if bad:
            raise ValueError(f"{bad} of {2 * visible.sum()} coordinates of visible points are not finite")
        if not self.measured.any():
            raise ValueError(
                f"0 of {len(points)} points are visible in two neighbouring frames: nothing to score"
            )

    @property
    def diagonal(self) -> float:
        """Of a frame, in pixels."""
        return math.hypot(*self.size)

    @property
    def measured(self) -> np.ndarray:
        """Whether a point is visible both before and after each step, bool [n, f - 1]."""
        return self.visible[:, 1:] & self.visible[:, :-1]

    @property
    def steps(self) -> np.ndarray:
        """Displacements from frame to frame in diagonals of a frame, 0 where not measured, [n, f - 1, 2]."""
        steps = np.diff(self.points.astype(np.float64), axis=1) / self.diagonal
        return np.where(self.measured[..., None], steps, 0.0)


# --- tracking -----------------------------------------------------------------------------------------------


def track_points(video: np.ndarray, *, points: int = 48) -> Tracks:
    """Follow corners of the first, the middle and the last frame through the whole video, both ways in time.

    Pyramidal Lucas-Kanade (Bouguet 2000, OpenCV) from frame to frame. A point that does not come back to
    within 1/256 of the short side when it is followed back, or that leaves the frame, is lost from there
    on: it stays where it was and is not visible. Later frames add corners only where no track passes.
    The same video always gives the same tracks.

    A video without anything to follow, such as a black one, is taken for a still one: a regular grid of
    visible points that do not move.

    Args:
        video: uint8 [f, h, w, 3].
        points: the most corners to take from each of the three frames.

    Raises:
        ValueError: it is no such video, has fewer than 2 frames, or ``points`` is below 1.
    """
    _check_video(video)
    if points < 1:
        raise ValueError(f"{points} points asked for: ask for 1 or more")
    frames, h, w = video.shape[:3]
    scale = max(1.0, _TRACKED_SIDE / min(h, w))
    greys = [_enlarged(picture, scale) for picture in video]
    followed: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    for start in dict.fromkeys((0, frames // 2, frames - 1)):
        passed = [track[start][visible[start]] for track, visible in zip(followed, seen, strict=True)]
        track, visible = _followed_both_ways(greys, start, _corners(greys[start], passed, points))
        followed.append(track)
        seen.append(visible)
    track, visible = (np.concatenate(parts, axis=1).swapaxes(0, 1) for parts in (followed, seen))
    kept = (visible[:, 1:] & visible[:, :-1]).any(axis=1)
    if not kept.any():
        return _still_grid(frames, h, w)
    # Pixels are squares: their middles, not their corners, keep whole numbers when the picture is enlarged.
    unscaled = (track[kept] + 0.5) / scale - 0.5
    return Tracks(unscaled.astype(np.float32), visible[kept], (h, w))


def _check_video(video: np.ndarray) -> None:
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a video is uint8 (f, h, w, 3), not {video.dtype} {video.shape}: convert it")
    if video.shape[0] < 2:
        raise ValueError(
            f"the video has {video.shape[0]} frames and motion needs at least 2: give more frames"
        )
    if min(video.shape[1:3]) < _SMALLEST_SIDE:
        raise ValueError(
            f"the frames are {video.shape[1]} x {video.shape[2]} pixels: give at least "
            f"{_SMALLEST_SIDE} x {_SMALLEST_SIDE}"
        )


def _enlarged(picture: np.ndarray, scale: float) -> np.ndarray:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    if scale == 1:
        return grey
    h, w = grey.shape
    return cv2.resize(grey, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_CUBIC)


def _corners(grey: np.ndarray, passed: list[np.ndarray], points: int) -> np.ndarray:
    """The best corners that are not near a point that is already followed, [n, 2]."""
    distance = max(2, round(min(grey.shape) / 24))
    free = np.full(grey.shape, 255, np.uint8)
    for x, y in itertools.chain.from_iterable(passed):
        cv2.circle(free, (round(float(x)), round(float(y))), distance, 0, thickness=-1)
    found = cv2.goodFeaturesToTrack(grey, points, _CORNER_QUALITY, distance, mask=free)
    return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)


def _followed_both_ways(
    greys: list[np.ndarray], start: int, corners: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [f, n, 2] and visibility [f, n] of corners of frame ``start``."""
    track = np.repeat(corners[None], len(greys), axis=0)
    visible = np.ones(track.shape[:2], bool)
    if not len(corners):
        return track, visible
    for frame in range(start + 1, len(greys)):
        track[frame], visible[frame] = _step(
            greys[frame - 1], greys[frame], track[frame - 1], visible[frame - 1]
        )
    for frame in range(start - 1, -1, -1):
        track[frame], visible[frame] = _step(
            greys[frame + 1], greys[frame], track[frame + 1], visible[frame + 1]
        )
    return track, visible


def _step(
    before: np.ndarray, after: np.ndarray, points: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points[:, None], None, **_LUCAS_KANADE)
    back, refound, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, **_LUCAS_KANADE)
    there = there[:, 0]
    h, w = after.shape
    inside = ((there >= -0.5) & (there <= (w - 0.5, h - 0.5))).all(axis=1)
    error = np.linalg.norm(back[:, 0] - points, axis=1)
    came_back = (found[:, 0] == 1) & (refound[:, 0] == 1) & (error <= min(h, w) / _TRACKED_SIDE)
    kept = visible & inside & came_back
    return np.where(kept[:, None], there, points), kept


def _still_grid(frames: int, h: int, w: int) -> Tracks:
    places = (np.arange(_GRID) + 0.5) / _GRID
    x, y = np.meshgrid(places * w - 0.5, places * h - 0.5)
    points = np.stack([x, y], axis=-1).reshape(-1, 1, 2).astype(np.float32)
    points = np.repeat(points, frames, axis=1)
    return Tracks(points, np.ones(points.shape[:2], bool), (h, w))


# --- scores of tracks ---------------------------------------------------------------------------------------


def motion_fidelity(a: Tracks, b: Tracks, *, still: float = 0.001) -> float:
    """How much two videos move alike, -1 to 1; 1 for a video and itself, the same whichever comes first.

    After the motion fidelity of DMT (Yatim et al. 2024, arXiv 2311.17009, Sec. 5): each track looks for the
    track of the other video that moves most alike, wherever it is; the score is the mean over all tracks of
    both. Instead of the cosine of unit displacements, which is 0/0 where nothing moves and blind to speed,
    two displacements u and v score

        (2 u.v + e^2) / (|u|^2 + |v|^2 + e^2)      e = ``still``, u and v first shortened by up to e.

    So two displacements of up to e agree (1), equal ones agree (1), a still and a moving one score nearly 0,
    opposite ones nearly -1, and the same direction at twice the speed 4/5.

    A pair of tracks scores the weighted mean over the steps at which both are visible. A track can be the
    partner of another if it is visible for at least half of that one's weight; a track that has no such
    partner scores 0. A step weighs |u| + e / 10, as otherwise a hundred still corners of the background
    outvote a small thing that moves (in DMT all steps weigh the same).

    Args:
        a, b: of two videos with equally many frames; sizes may differ, displacements are in diagonals.
        still: e in diagonals of a frame: up to this length a displacement counts as none.

    Raises:
        ValueError: the numbers of frames differ, or ``still`` is not above 0.
    """
    alike, (wa, wb) = _alike(a, b, still)
    best_a = _best(_agreed(alike, wa, b.measured), wa)
    best_b = _best(_agreed(alike.swapaxes(0, 1), wb, a.measured), wb)
    return float((best_a + best_b) / (wa.sum() + wb.sum()))


def track_agreement(a: Tracks, b: Tracks, *, still: float = 0.001) -> np.ndarray:
    """How much each track of one video moves like each of another's, as `motion_fidelity` compares them.

    Returns:
        [n, m], n tracks of ``a`` and m of ``b``: -1 to 1, weighed by how far ``a`` moves; -inf where the one of
        ``b`` is not there for long enough to be a partner.

    Raises:
        ValueError: see `motion_fidelity`.
    """
    alike, (weights, _) = _alike(a, b, still)
    return _agreed(alike, weights, b.measured)


def _alike(a: Tracks, b: Tracks, still: float) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """How alike all pairs of tracks are at each step [n, m, f - 1], and what steps weigh in both."""
    if a.points.shape[1] != b.points.shape[1]:
        raise ValueError(
            f"{a.points.shape[1]} and {b.points.shape[1]} frames: only videos of equally many can be compared"
        )
    if not 0 < still < math.inf:
        raise ValueError(f"still is {still:g} of the diagonal: it must be above 0 and finite")
    u, v = _shortened(a.steps, still), _shortened(b.steps, still)
    dots = np.einsum("atx,btx->abt", u, v)
    squares = (u * u).sum(-1)[:, None] + (v * v).sum(-1)[None]
    alike = (2 * dots + still**2) / (squares + still**2)
    # Steps that are not measured weigh nothing.
    wa, wb = (
        tracks.measured * (np.linalg.norm(steps, axis=-1) + still / 10)
        for tracks, steps in ((a, u), (b, v))
    )
    return alike, (wa, wb)


def _agreed(alike: np.ndarray, weights: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Weighted mean over the steps that both have, -inf where they share too few; see `motion_fidelity`.

    ``alike`` [n, m, f - 1], ``weights`` [n, f - 1], ``there`` bool [m, f - 1].
    """
    whole = weights.sum(axis=1)
    shared = np.einsum("at,bt->ab", weights, there)
    agreed = np.einsum("abt,at,bt->ab", alike, weights, there)
    # A little less than half, for the rounding of sums.
    partners = (shared >= 0.499 * whole[:, None]) & (shared > 0)
    return np.divide(agreed, shared, out=np.full_like(agreed, -np.inf), where=partners)


def _best(agreement: np.ndarray, weights: np.ndarray) -> float:
    """Sum over tracks of their weight times how alike their best partner is, 0 where there is none."""
    best = agreement.max(axis=1)
    return float((weights.sum(axis=1) * np.where(np.isfinite(best), best, 0.0)).sum())


def _shortened(steps: np.ndarray, by: float) -> np.ndarray:
    length = np.linalg.norm(steps, axis=-1, keepdims=True)
    return steps * np.maximum(0.0, 1 - by / np.maximum(length, by))


def frechet_distance(a: Tracks, b: Tracks) -> float:
    """How far apart the paths of two videos are, 0 to 1, in diagonals of the frame.

    After the Fréchet trajectory distance of RoPECraft (Gökmen et al. 2025, arXiv 2505.13344): frames are
    scaled to squares (x is divided by the width, y by the height; and here both by the root of 2, so that 1
    is the diagonal), and the score is the root of the mean square of the tracks' `discrete_frechet`. There,
    the same query points are followed in both videos. Here, each track takes the nearest track of the other
    video, both ways: all tracks of both go into one mean, weighed by how many frames they are visible.

    Places count, not only displacements: the same motion elsewhere has a distance. Of a track that is lost,
    the visible part is compared. The numbers of frames may differ.
    """
    distances = _frechet_table(_held(a), _held(b))
    squares = np.concatenate([distances.min(axis=1), distances.min(axis=0)]) ** 2
    weights = np.concatenate([a.visible.sum(1), b.visible.sum(1)])
    return float(np.sqrt((squares * weights).sum() / weights.sum()))


def discrete_frechet(p: np.ndarray, q: np.ndarray) -> float:
    """The discrete Fréchet distance of two paths, in their unit.

    Two walkers go from point to point, each forwards or waiting: the shortest leash that is enough for them
    (Eiter and Mannila 1994, Computing discrete Fréchet distance).

    Args:
        p: [f, 2].
        q: [g, 2].

    Raises:
        ValueError: a path has no points, or they are not x and y.
    """
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != 2 or q.shape[1] != 2 or not len(p) or not len(q):
        raise ValueError(
            f"the paths are {p.shape} and {q.shape}: they must be (f, 2) and (g, 2), f and g at least 1"
        )
    return float(_frechet_table(p[None], q[None])[0, 0])


def _frechet_table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Discrete Fréchet distances of all paths [n, f, 2] from all paths [m, g, 2], [n, m]."""
    row: list[np.ndarray] = []
    for i in range(a.shape[1]):
        above, row = row, []
        for j in range(b.shape[1]):
            apart = np.linalg.norm(a[:, None, i] - b[None, :, j], axis=-1)
            reached = above[j : j + 1] + row[-1:] + above[j - 1 : j] if j else above[:1]
            row.append(np.maximum(apart, np.minimum.reduce(reached)) if reached else apart)
    return row[-1]


def _held(tracks: Tracks) -> np.ndarray:
    """Positions in a square of diagonal 1; where not visible, the last visible one, or the first at the start.

    A point that is repeated does not change a discrete Fréchet distance.
    """
    frames = tracks.visible.shape[1]
    latest = np.maximum.accumulate(np.where(tracks.visible, np.arange(frames), -1), axis=1)
    latest = np.where(latest < 0, tracks.visible.argmax(axis=1)[:, None], latest)
    held = np.take_along_axis(tracks.points.astype(np.float64), latest[..., None], axis=1)
    h, w = tracks.size
    return held / (w, h) / math.sqrt(2)


def motion_magnitude(motion: np.ndarray | Tracks) -> float:
    """Mean length of the displacement of a point from frame to frame, in diagonals of the frame; 0 if still.

    Args:
        motion: a video, uint8 [f, h, w, 3], or its tracks.

    Raises:
        ValueError: see `track_points`.
    """
    tracks = motion if isinstance(motion, Tracks) else track_points(motion)
    lengths = np.linalg.norm(tracks.steps, axis=-1)
    return float(lengths.sum() / tracks.measured.sum())


# --- consistency --------------------------------------------------------------------------------------------


def temporal_consistency(video: np.ndarray) -> float:
    """How alike neighbouring frames are, 1 for a frozen video; about 0 for unrelated ones.

    Stands where papers use the mean cosine of CLIP features of neighbouring frames, and needs no weights.
    The mean of two such cosines:

    - colour: CIE Lab on grids of 4 x 4, 8 x 8 and 16 x 16 fields, less the mean colour of the whole video.
      Flicker, changes of colour, things that jump or change and, less so, motion lower it.
    - detail: what a blur of 1.5 pixels takes away from the lightness, where strong edges count no more than
      weak ones, with the later frame brought back along its optical flow (DIS, Kroeger et al. 2016). Grain
      and detail that comes and goes lower it; a clean picture that moves keeps it high.

    Both have a constant energy added to every term, so that the featureless agrees with the featureless and
    what cannot be seen does not count. Fine detail depends on the size of the picture: compare videos of one
    size. Fast motion lowers it too: compare videos of like motion, beside `motion_magnitude`.

    Args:
        video: uint8 [f, h, w, 3].

    Raises:
        ValueError: it is no such video, or has fewer than 2 frames.
    """
    _check_video(video)
    fields, means, detail = [], [], []
    before: tuple[np.ndarray, np.ndarray] | None = None
    for picture in video:
        lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
        fields.append(_colour_fields(lab))
        means.append(lab.mean(axis=(0, 1), dtype=np.float64))
        # Contiguous, so that the whole colours of one frame only are held.
        after = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.ascontiguousarray(lab[..., 0])
        if before:
            detail.append(_detail_cosine(*before, *after))
        before = after
    # Fields are means, so the mean colour may be taken from them as well as from all pixels before.
    coloured = np.stack(fields) - _colour_fields(np.tile(np.mean(means, axis=0), (16, 16, 1)))
    colour = _cosine(coloured[:-1], coloured[1:], floor=_COLOUR_FLOOR)
    return float((colour.mean() + np.mean(detail)) / 2)


def _detail_cosine(
    grey: np.ndarray, lightness: np.ndarray, next_grey: np.ndarray, next_lightness: np.ndarray
) -> float:
    """Of a frame and the next one, which is brought back."""
    returned = _brought_back(grey, next_grey, next_lightness)
    return float(_cosine(_detail(lightness), _detail(returned), floor=_DETAIL_FLOOR))


def _cosine(a: np.ndarray, b: np.ndarray, *, floor: float) -> np.ndarray:
    """Along the last axis, as if both had one more feature, of the same value ``floor ** 0.5``."""
    return ((a * b).sum(-1) + floor) / np.sqrt(((a * a).sum(-1) + floor) * ((b * b).sum(-1) + floor))


def _colour_fields(lab: np.ndarray) -> np.ndarray:
    # A grid of g x g fields is divided by g, so that every grid weighs the same.
    grids = [cv2.resize(lab, (g, g), interpolation=cv2.INTER_AREA).reshape(-1) / g for g in _COLOUR_GRIDS]
    return np.concatenate(grids).astype(np.float64) / math.sqrt(len(grids))


def _detail(lightness: np.ndarray) -> np.ndarray:
    fine = lightness - cv2.GaussianBlur(lightness, (0, 0), 1.5)
    return np.tanh(fine.astype(np.float64) / _DETAIL_CONTRAST).reshape(-1) / math.sqrt(fine.size)


def _brought_back(grey: np.ndarray, next_grey: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """The later frame's lightness, each point where it was in the earlier frame."""
    h, w = grey.shape
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    flow = finder.calc(grey, next_grey, None)
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    return cv2.remap(
        lightness, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


# --- exact paths --------------------------------------------------------------------------------------------


def path_error(found: np.ndarray, true: np.ndarray) -> float:
    """Mean distance of found from true positions, in pixels.

    Where there are several objects, over the assignment of found to true ones that makes it least.

    Args:
        found, true: [o, f, 2], finite.

    Raises:
        ValueError: the shapes are not the same and of this kind, or a position is not finite.
    """
    matched = _assigned(found, true)
    return float(np.linalg.norm(matched - true, axis=-1).mean())


def velocity_cosine(found: np.ndarray, true: np.ndarray, *, moving: float = 0.25) -> float:
    """Mean cosine of found and true velocities, over the frames in which the true object moves; -1 to 1.

    A velocity is the mean of up to 3 neighbouring displacements (2 at the ends), of both paths alike: a
    found position is unsure by some tenth of a pixel, which alone would turn a slow displacement around.
    Where a found object stands still and the true one moves, the cosine is 0: it stands still if its
    velocity is shorter than a tenth of the true one of that frame, a rule of this project, as otherwise the
    direction of a creep, or of rounding, would count in full. From there on speed does not count. Objects
    are assigned as in `path_error`.

    Args:
        found, true: [o, f, 2] in pixels, finite, f at least 2.
        moving: a true velocity in pixels per frame counts if it is longer than this, 0 or more.

    Returns:
        The mean over all frames of all objects; nan if the true objects never move.

    Raises:
        ValueError: see `path_error`; or there are fewer than 2 frames, or ``moving`` is below 0.
    """
    if not moving >= 0:
        raise ValueError(f"moving is {moving:g} pixels per frame: it must be 0 or more")
    matched = _assigned(found, true)
    if true.shape[1] < 2:
        raise ValueError(
            f"the paths have {true.shape[1]} frames and motion needs at least 2: give more frames"
        )
    u, v = _velocities(matched), _velocities(np.asarray(true, np.float64))
    lengths, true_lengths = np.linalg.norm(u, axis=-1), np.linalg.norm(v, axis=-1)
    moves = true_lengths > moving
    if not moves.any():
        return math.nan
    product = lengths * true_lengths
    follows = (lengths >= _STANDING_SHARE * true_lengths) & (product > 0)
    cosines = np.divide((u * v).sum(-1), product, out=np.zeros_like(product), where=follows)
    return float(np.clip(cosines[moves], -1.0, 1.0).mean())


def _assigned(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The found objects in the order of the true ones that they are nearest to."""
    if found.shape != true.shape or true.ndim != 3 or true.shape[2] != 2 or not true.size:
        raise ValueError(f"found is {found.shape} and true is {true.shape}: both must be one (o, f, 2)")
    if not (np.isfinite(found).all() and np.isfinite(true).all()):
        bad = (~np.isfinite(found)).sum(), (~np.isfinite(true)).sum()
        raise ValueError(f"{bad[0]} found and {bad[1]} true coordinates are not finite: fill the gaps first")
    found = found.astype(np.float64)
    apart = np.linalg.norm(found[:, None] - true[None], axis=-1).mean(axis=-1)
    objects = range(len(true))
    order = min(itertools.permutations(objects), key=lambda order: sum(apart[order[i], i] for i in objects))
    return found[list(order)]


def _velocities(path: np.ndarray) -> np.ndarray:
    steps = np.diff(path, axis=1)
    sums = np.cumsum(np.pad(steps, ((0, 0), (1, 0), (0, 0))), axis=1)
    at = np.arange(steps.shape[1])
    first, stop = np.maximum(at - 1, 0), np.minimum(at + 2, steps.shape[1])
    return (sums[:, stop] - sums[:, first]) / (stop - first)[:, None]
