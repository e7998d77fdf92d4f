"""The measurement's book-keeping: what is done stays done, and the page says what the rows say."""

import json

import numpy as np
import pytest

pytest.importorskip("diffusers")

import fidelity
from embedded.measuring import SCHEDULERS, Result, held_out_cases, score
from fidelity_report import Cell, cell_path, read_cells, rows_of, table, write_report


def row(case=0, seed=0, **values):
    keys = ("path_error", "velocity_cosine", "shape", "colour", "ground", "fidelity", "frechet", "magnitude",
            "consistency", "low", "high", "seconds")  # fmt: skip
    return {"case": case, "seed": seed, **dict.fromkeys(keys, 0.5), **values}


def keep(store, name, rows):
    cell_path(store, name).write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_the_mean_is_over_clips_and_the_spread_over_seeds():
    cell = Cell("main/a", [row(seed=0, path_error=1), row(seed=0, path_error=3), row(seed=1, path_error=5)])
    assert cell.mean("path_error") == pytest.approx(3.0)
    assert cell.spread("path_error") == pytest.approx(np.std([2, 5], ddof=1))


def test_a_score_without_meaning_is_left_out():
    cell = Cell("main/a", [row(velocity_cosine=float("nan")), row(seed=1, velocity_cosine=0.8)])
    assert cell.mean("velocity_cosine") == pytest.approx(0.8)


def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch):
    cases, seen = held_out_cases(5, 0), []

    def pretend(_model, batch):
        seen.extend(case.index for case in batch)
        return [Result(case.wanted.render(), (0.0, 1.0)) for case in batch]

    monkeypatch.setattr(fidelity, "ceiling", pretend)
    fidelity.measure(None, "main/ceiling", None, cases[:2], tmp_path, "float32")
    fidelity.measure(None, "main/ceiling", None, cases, tmp_path, "float32")
    assert seen == [0, 1, 2, 3, 4]
    rows = rows_of(cell_path(tmp_path, "main/ceiling"))
    assert [r["case"] for r in rows] == seen
    assert max(r["path_error"] for r in rows) < 0.3 and min(r["shape"] for r in rows) == 1.0


def test_a_batch_whose_writing_fails_leaves_the_rows_before_it(tmp_path, monkeypatch):
    keep(tmp_path, "main/ceiling", [row(0)])

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr(fidelity, "ceiling", lambda _, batch: [Result(batch[0].wanted.render(), (0.0, 1.0))])
    with pytest.raises(OSError, match="disk full"):
        fidelity.measure(None, "main/ceiling", None, held_out_cases(2, 0), tmp_path, "float32")
    assert rows_of(cell_path(tmp_path, "main/ceiling")) == [row(0)]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_control_moves_otherwise_and_does_not_depend_on_the_batch():
    few, many = held_out_cases(3, 0), held_out_cases(9, 1)
    for one, same in zip(few, many, strict=False):
        assert np.array_equal(one.other.render(), same.other.render())
        assert one.other.motion != one.reference.motion


def test_the_right_video_scores_well_and_the_reference_itself_does_not_meet_the_caption():
    for case in held_out_cases(8, 0):
        perfect, other = score(case, case.wanted.render()), score(case, case.reference.render())
        assert perfect.path_error < 0.3 and perfect.shape == perfect.colour == 1.0
        if case.reference.things[0].colour != case.target.things[0].colour:
            assert other.colour < 1.0


def test_the_page_has_every_measured_cell_and_its_plots(tmp_path):
    names = list(fidelity.cells())
    (tmp_path / "cells").mkdir()
    for i, name in enumerate(names):
        keep(tmp_path / "cells", name, [row(0, seed, path_error=i + seed) for seed in range(3)])
    write_report(tmp_path / "PAGE.md", tmp_path / "cells", names, {"date": "today"})
    page = (tmp_path / "PAGE.md").read_text()
    for name in names:
        assert f"| {name.split('/', 1)[1]} |" in page
    for axis in ("main", "k", "t_alpha", "block", "weight", "steps", "sampler"):
        assert (tmp_path / "cells" / f"{axis}.png").stat().st_size > 2000
        assert f"(cells/{axis}.png)" in page


def test_a_table_says_mean_and_spread():
    line = table([Cell("k/4", [row(0, 0, path_error=2.0), row(0, 1, path_error=4.0)])], "k").splitlines()[-1]
    assert line.startswith("| 4 | 3.00 ± 1.41 |")


def test_cells_cover_what_is_promised():
    names = fidelity.cells()
    main = ("no guidance", "guided", "another clip's motion", "plain control", "ceiling")
    assert {f"main/{name}" for name in main} <= set(names)
    for axis in ("k", "t_alpha", "block", "weight", "steps", "sampler"):
        assert sum(name.startswith(axis + "/") for name in names) >= 4
    assert {f"sampler/{name}" for name in SCHEDULERS} <= set(names)
    assert not read_cells(fidelity.ROOT / "nowhere", list(names))
