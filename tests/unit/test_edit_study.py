"""The study of edits: what its references are, what its masks hold, and what its tables make of known paths."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import edit_study
import fidelity
from edit_cells import LONG, ONE, TWO, EditSetting, cells, clips, motion_of, region, unretimed, wanted
from edit_report import edges, middles, section, step_error
from embedded.measuring import Result, Score, held_out_cases
from fidelity_store import Record, cell_path, read_record, write_record
from motionclone_core.metrics import path_error
from motionclone_core.mixing import Motion
from motionclone_core.representation import MotionRepresentation, TapRepresentation
from motionclone_core.windows import sliding_windows

FACTS = {"model": "abc", "precision": "float32", "run": "today, this machine"}
WINDOWS = sliding_windows(LONG, 16, 4)


# --- references and what is asked of them -----------------------------------------------------------------


def test_of_two_things_neither_comes_where_the_other_has_been():
    for clip in clips("two", 6):
        held = [region(clip.reference, i, margin=0.0, moving=False)[0] for i in range(2)]
        assert float((held[0] * held[1]).max()) == 0.0
        # Each goes farther than it is wide from its middle to its edge.
        assert (np.ptp(clip.reference.paths, axis=1).max(-1) > clip.reference.radii.max(1)).all()


def test_single_things_are_those_of_the_other_tables_that_go_their_way():
    chosen, cases = clips("one", 8), held_out_cases(40, 0)
    for clip in chosen:
        assert np.array_equal(clip.reference.render(), cases[clip.index].reference.render())
        assert clip.target.words == cases[clip.index].target.words
        assert np.linalg.norm(np.diff(clip.reference.paths[0], axis=0), axis=-1).sum() > 4
    assert [clip.index for clip in clips("one", 3, first=64)] == [64, 65, 66]


def test_a_long_path_neither_stops_nor_leaves_the_picture():
    for clip in clips("long", 4):
        (path,) = clip.reference.paths
        assert path.shape == (LONG, 2) and np.ptp(path, axis=0).min() > 20
        assert path.min() > 5 and path.max() < 58
        assert np.median(np.linalg.norm(np.diff(path, axis=0), axis=-1)) > 0.5


def test_a_result_is_asked_for_other_shapes_and_colours():
    for kind in ("two", "long"):
        for clip in clips(kind, 4):
            pairs = zip(clip.target.things, clip.reference.things, strict=True)
            assert all(asked.shape != shown.shape and asked.colour != shown.colour for asked, shown in pairs)


def test_the_wanted_path_of_a_retimed_motion_is_that_of_the_frames_that_it_shows():
    (clip,) = clips("one", 1)
    path = clip.reference.paths
    assert np.array_equal(wanted(clip, replace(ONE, reverse=True)), path[:, ::-1])
    assert np.array_equal(wanted(clip, replace(ONE, speed=2.0, repeat="ping-pong"))[:, 7:10], path[:, [14, 14, 12]])
    slow = wanted(clip, replace(ONE, read_frames=32, speed=31 / 15))
    # Twice the frames on the same way: the ends are the same.
    assert slow[:, [0, -1]] == pytest.approx(path[:, [0, -1]], abs=1e-4)
    cut = unretimed(clip, replace(ONE, read_frames=32, speed=31 / 15))
    assert np.array_equal(cut, clip.shown(replace(ONE, read_frames=32)).paths[:, :16])


def test_the_wanted_path_at_another_size_or_place_is_the_same_share_of_the_frame():
    (clip,) = clips("one", 1)
    share = (clip.reference.paths + 0.5) / 64
    assert wanted(clip, replace(ONE, size=128)) == pytest.approx(share * 128 - 0.5, abs=1e-4)
    assert wanted(clip, replace(ONE, read_size=32)) == pytest.approx(clip.reference.paths, abs=1e-4)
    placed = wanted(clip, replace(ONE, scale=0.5, x=0.2))
    # The middle of the frame goes a fifth of it to the right, everything else half as far from there.
    middle = np.array([0.5 + 0.2, 0.5]) * 64 - 0.5
    assert placed - middle == pytest.approx((clip.reference.paths - 31.5) / 2, abs=1e-4)


@pytest.mark.parametrize("moving", [True, False])
def test_a_mask_holds_the_thing_and_a_margin(moving):
    scene = clips("two", 1)[0].reference
    mask = region(scene, 1, margin=2.0, moving=moving).numpy()
    assert mask.shape == (16 if moving else 1, 64, 64)
    covered = (scene.render() != scene.alone(0).render()).any(-1)
    for frame, held in enumerate(np.broadcast_to(mask, covered.shape)):
        assert (held[covered[frame]] == 1).all()
    disc = np.pi * (scene.radii[1, 0] + 2) ** 2
    assert mask[0].sum() == pytest.approx(disc, rel=0.02) if moving else mask[0].sum() > 1.5 * disc


@pytest.mark.parametrize("moving", [True, False])
def test_regions_end_where_the_other_thing_is_nearer(moving):
    scene = clips("two", 1)[0].reference
    one, two = (region(scene, i, margin=64.0, moving=moving, cut=True) for i in range(2))
    assert (one + two).numpy() == pytest.approx(np.ones(one.shape), abs=1e-5)
    for i, mask in enumerate((one, two)):
        inside = region(scene, i, margin=0.0, moving=moving)
        assert torch.equal(torch.minimum(mask, inside), inside)


# --- the motion that leads a clip -------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch):
    """The clips that are read; what is read off them has one value, the number of the reading."""
    seen = []

    def read_motion(_model, video, _setting, *, seed, windows=None):
        seen.append(video)
        shape = (16, 1, len(video), 2)
        values = torch.full(shape, len(seen) / 16)
        tap = TapRepresentation.compact(values, torch.zeros(shape, dtype=torch.int64), (4, 4))
        return MotionRepresentation.whole({"up_blocks.1.motion.0.attn1": tap}, (16, 16))

    monkeypatch.setattr("edit_cells.read_motion", read_motion)
    return seen


def test_a_motion_as_it_is_is_not_edited(read):
    (clip,) = clips("one", 1)
    motion = motion_of(None, clip, ONE)
    assert (motion.timing, motion.mask, motion.frame.inside) == (None, None, 1.0)
    assert np.array_equal(read[0], clip.reference.render())


def test_each_edit_is_made_to_the_motion(read):
    (clip,), (pair,) = clips("one", 1), clips("two", 1)
    assert motion_of(None, clip, replace(ONE, reverse=True)).timing == tuple(range(16))[::-1]
    assert motion_of(None, clip, replace(ONE, scale=0.5, x=0.2)).frame.left == pytest.approx(0.45)
    held = region(pair.reference, 0, margin=8.0, moving=False)
    assert torch.equal(motion_of(None, pair, replace(TWO, mask="first", margin=8.0)).mask.float(), held.half().float())
    inverted = motion_of(None, pair, replace(TWO, mask="all but the first", margin=8.0)).mask
    assert torch.equal(inverted.float(), (1 - held).half().float())


def test_two_motions_are_read_off_things_alone_and_masked_to_their_regions(read):
    (clip,) = clips("two", 1)
    motion = motion_of(None, clip, replace(TWO, mask="each its own", margin=8.0, cut=True))
    assert isinstance(motion, Motion)
    for i, part in enumerate(motion.representations):
        assert np.array_equal(read[i], clip.reference.alone(i).render())
        assert float(next(iter(part.taps.values())).values.max()) == (i + 1) / 16
        held = region(clip.reference, i, margin=8.0, moving=False, cut=True)
        assert torch.equal(part.mask.float(), held.half().float())


def test_masked_clips_are_sampled_one_by_one(read, monkeypatch):
    sizes = []

    def generate(_model, captions, noise, _setting, *, motions, windows):
        sizes.append((len(captions), len(noise), len(motions)))
        return [Result(np.zeros((16, 64, 64, 3), np.uint8), (0.0, 0.0)) for _ in captions]

    monkeypatch.setattr(edit_study, "generate", generate)
    for setting in (TWO, replace(TWO, mask="first")):
        assert len(edit_study.sampled(None, clips("two", 3), setting)) == 3
    assert sizes == [(3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)]


# --- seams ------------------------------------------------------------------------------------------------


def test_where_windows_begin_end_and_hand_over():
    assert WINDOWS[1][0] == 12 and WINDOWS[0][-1] == 15
    # From frame 11 to 12 the second window begins, from 15 to 16 the first has ended; from 13 to 14 the weights cross.
    assert {11, 15} <= edges(WINDOWS) and 63 not in edges(WINDOWS) and -1 not in edges(WINDOWS)
    assert middles(WINDOWS) == {13, 25, 37, 49}
    assert edges([tuple(range(16))]) == middles([tuple(range(16))]) == set()


@pytest.mark.parametrize(("jump", "where"), [(12, "edges"), (14, "middles"), (20, "elsewhere")])
def test_a_jump_is_found_where_it_is(jump, where):
    setting = next(setting for name, setting in cells().items() if name == "long/overlap 4")
    (clip,) = clips("long", 1)
    found = wanted(clip, setting).copy()
    found[:, jump:] += (3.0, 4.0)
    at, mid = edges(WINDOWS), middles(WINDOWS)
    errors = {
        "edges": step_error(setting, at=at)(clip, found),
        "middles": step_error(setting, at=mid)(clip, found),
        "elsewhere": step_error(setting, not_at=at | mid)(clip, found),
    }
    steps = {"edges": len(at), "middles": len(mid), "elsewhere": 63 - len(at | mid)}
    assert errors == pytest.approx({name: 5 / steps[name] if name == where else 0.0 for name in errors}, abs=1e-5)


# --- rows and tables --------------------------------------------------------------------------------------


def test_a_row_says_where_things_are():
    (clip,) = clips("two", 1)
    dressed = clip.reference.dressed_as(clip.target)
    row = edit_study.row_of(clip, Result(dressed.render(), (0.0, 1.0)))
    assert path_error(np.array(row["paths"]), dressed.paths) < 0.2
    assert (row["case"], row["seen"], row["shape"], row["colour"]) == (0, 1.0, 1.0, 1.0)


def put(store, name, found, number=3, **setting):
    """A cell whose things are where ``found`` says, for each of some clips."""
    how = replace(cells()[name], **setting)
    rows = [
        {"case": clip.index, "seed": 0, "paths": found(clip, how).tolist(), "seen": 1.0, "shape": 0.5, "colour": 1.0}
        for clip in clips(how.clips, number)
    ]
    write_record(cell_path(store, name), Record(fidelity.origin_of(how, FACTS), ("today, this machine",), tuple(rows)))


def origins():
    return {name: fidelity.origin_of(setting, FACTS) for name, setting in cells().items()}


def beside(pixels, *things):
    """Paths that are beside the wanted ones, all or some of them."""

    def found(clip, setting):
        paths = wanted(clip, setting).copy()
        paths[list(things) or slice(None), :, 0] += pixels
        return paths

    return found


def line_of(text, *starts):
    start = "| " + " | ".join(starts) + " |"
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [entry.strip() for entry in line.strip("|").split("|")][len(starts) :]


def test_a_table_of_times(tmp_path):
    put(tmp_path, "one/no guidance", beside(10.0))
    put(tmp_path, "one/reversed", beside(2.0))
    text = section(tmp_path, origins(), None)
    found = line_of(text, "backwards")
    reference = [clip.reference.paths for clip in clips("one", 3)]
    free = np.mean([np.linalg.norm(p - p[:, ::-1] + (10, 0), axis=-1).mean() for p in reference])
    turned = np.mean([np.linalg.norm(p[:, ::-1] - p + (2, 0), axis=-1).mean() for p in reference])
    assert found[0] == "2.00 ± 0.00" and found[-1] == "3"
    assert found[1].startswith(f"{free:.2f} ±") and found[2].startswith(f"{2 / free:.3f} ±")
    assert found[3].startswith(f"{turned:.2f} ±")
    assert "**not finished**: 2 of" in text and "measured on today, this machine" in text


def test_a_table_of_masks_knows_what_follows_from_what_stays(tmp_path):
    put(tmp_path, "two/no guidance", beside(6.0))
    put(tmp_path, "two/whole frame", beside(1.0))

    def crossed(clip, setting):
        """The second colour goes the first way, 1 pixel beside; the first stays where it is without guidance."""
        return np.stack([beside(6.0)(clip, setting)[0], beside(1.0)(clip, setting)[0]])

    put(tmp_path, "two/first", crossed)
    text = section(tmp_path, origins(), None)
    its, ratio, _, moved, number = line_of(text, "first", "masked")
    assert (its, moved, number) == ("1.00 ± 0.00", "0.00 ± 0.00", "3")
    assert ratio.startswith("0.167")
    assert line_of(text, "first", "no guidance")[:4] == ["6.00 ± 0.00", "1.000 ± 0.000", "6.00 ± 0.00", "0.00 ± 0.00"]
    assert line_of(text, "first", "whole frame")[:4] == ["1.00 ± 0.00", "0.167 ± 0.000", "1.00 ± 0.00", "5.00 ± 0.00"]


def test_a_table_of_parts_shows_a_motion_that_is_outweighed(tmp_path):
    put(tmp_path, "two/no guidance", beside(6.0))
    put(tmp_path, "two/each its own", beside(5.5, 1))
    found = line_of(section(tmp_path, origins(), None), "two motions, each in its half")
    assert found[0] == "2.75 ± 0.00" and found[1].startswith("0.458")
    assert found[2:6] == ["0.00 ± 0.00", "5.50 ± 0.00", "0.00 ± 0.00", "5.50 ± 0.00"]
    assert found[6:] == ["0", "3", "0", "100.0 ± 0.0"]


def test_a_table_of_windows(tmp_path):
    def jumping(clip, setting):
        paths = wanted(clip, setting).copy()
        paths[..., 1] += 0.5 * np.arange(LONG)
        for step in edges(WINDOWS):
            paths[:, step + 1 :, 0] += 2.0
        return paths

    put(tmp_path, "long/no guidance, overlap 4", beside(10.0))
    put(tmp_path, "long/overlap 4", jumping)
    found = line_of(section(tmp_path, origins(), None), "4", "guided")
    at = np.hypot(2.0, 0.5)
    assert found[2:5] == [f"{at:.2f} ± 0.00", "0.50 ± 0.00", f"{at / 0.5:.3f} ± 0.000"]
    assert found[5:8] == ["0.50 ± 0.00", "1.000 ± 0.000", "3"]


def test_a_table_of_sizes_is_in_pixels_and_in_shares_of_the_frame(tmp_path):
    put(tmp_path, "one/no guidance, 32", beside(8.0))
    put(tmp_path, "one/64 to 32", beside(2.0))
    found = line_of(section(tmp_path, origins(), None), "64", "32")
    assert found[:4] == ["2.00 ± 0.00", "8.00 ± 0.00", "0.250 ± 0.000", "6.2 ± 0.0"]
    assert found[4:8] == ["100.0 ± 0.0", "100.0 ± 0.0", "50.0 ± 0.0", "50.0 ± 0.0"]


def test_the_page_of_fidelity_keeps_the_section(tmp_path):
    settings = fidelity.cells()
    scores = dict.fromkeys(Score.__dataclass_fields__, 1.0) | {"path_error": 3.0}
    rows = tuple({"case": clip.index, "seed": 0, **scores} for clip in clips("one", 3))
    for name in ("fast/no guidance", "fast/fast"):
        origin = fidelity.origin_of(settings[name], FACTS)
        write_record(cell_path(tmp_path / "s", name), Record(origin, ("then",), rows))
    put(tmp_path / "s" / "edits", "one/no guidance", beside(12.0))
    args = argparse.Namespace(cases=3, precision="float32", store=tmp_path / "s", model=fidelity.MODEL_FILE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fidelity, "facts_of", lambda _: FACTS)
        fidelity.write_page(args)
    page = (tmp_path / "FIDELITY.md").read_text(encoding="utf-8")
    assert page.index("## A third of the steps") < page.index("## Edits of a motion")
    # As read: the rows of the table of `fast`.
    assert line_of(page, "as read")[:3] == ["3.00 ± 0.00", "12.00 ± 0.00", "0.250 ± 0.000"]


def test_what_was_measured_otherwise_is_not_shown(tmp_path):
    put(tmp_path, "one/no guidance", beside(10.0))
    put(tmp_path, "one/reversed", beside(2.0), weight=1.0)
    assert "| backwards |" not in section(tmp_path, origins(), None)
    assert section(tmp_path / "none", origins(), None) == ""


def test_cells_differ_and_have_files_of_their_own(tmp_path):
    found = cells()
    assert len(set(found.values())) == len(found)
    assert len({cell_path(tmp_path, name) for name in found}) == len(found)
    for name, setting in found.items():
        assert isinstance(setting, EditSetting) and (setting.weight == 0) == ("no guidance" in name)


def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch):
    sampled = []

    def pretend(_model, batch, _setting):
        sampled.extend(clip.index for clip in batch)
        return [Result(clip.reference.dressed_as(clip.target).render(), (0.0, 1.0)) for clip in batch]

    monkeypatch.setattr(edit_study, "sampled", pretend)
    for number in (2, 11, 11):
        edit_study.measure(None, "two/first", cells()["two/first"], clips("two", number), tmp_path, FACTS)
    assert sampled == list(range(11))
    assert [row["case"] for row in read_record(cell_path(tmp_path, "two/first")).rows] == sampled
    with pytest.raises(SystemExit, match="delete it to measure it anew"):
        edit_study.measure(None, "two/first", cells()["two/whole frame"], clips("two", 2), tmp_path, FACTS)
