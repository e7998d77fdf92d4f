"""The measurement's book-keeping: what is done stays done, and the page says what the rows say."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("diffusers")

import fidelity
from embedded import measuring
from embedded.measuring import FAST, SCHEDULERS, Result, held_out_cases, score
from fidelity_cells import PATH, Cell, gain, level, ratio, read_cells
from fidelity_report import table, write_report
from fidelity_store import Record, cell_path, read_record, write_record
from motionclone_core.schedule import PRESETS

FACTS = {"model": "abc", "precision": "float32", "run": "today, this machine"}
LATENTS = "-1.00 to 2.00"


def row(case=0, seed=0, **values):
    keys = ("path_error", "velocity_cosine", "shape", "colour", "ground", "fidelity", "frechet", "magnitude",
            "consistency", "seen", "low", "high", "push", "limited", "skipped")  # fmt: skip
    return {"case": case, "seed": seed, **dict.fromkeys(keys, 0.5), "limited": 0, "skipped": 0, **values}


def origin(model="abc", setting=None):
    return {"model": model, "precision": "float32", "setting": setting}


def record(*rows, **how):
    return Record(origin(**how), ("today, this machine",), rows)


def cell(name, *rows):
    return Cell(name, record(*rows))


def test_the_mean_is_over_clips_and_the_error_over_references():
    a = cell("main/a", row(0, 0, path_error=1), row(0, 1, path_error=3), row(1, 0, path_error=5))
    assert a.mean("path_error") == pytest.approx(3.0)
    assert a.error("path_error") == pytest.approx(np.std([2, 5], ddof=1) / np.sqrt(2))
    assert np.isnan(cell("main/a", row(0, 0), row(0, 1)).error("path_error"))


def test_a_ratio_and_its_error():
    above = cell("main/a", *(row(case, path_error=value) for case, value in enumerate((1.0, 2.0, 6.0))))
    below = cell("main/b", *(row(case, path_error=value) for case, value in enumerate((4.0, 10.0, 10.0))))
    found = ratio(above, below, PATH)
    assert found.mean == pytest.approx(9 / 24)
    # Drawing references again and again, as the bootstrap does, gives about the same error; here it is written out.
    residuals = (np.array([1.0, 2.0, 6.0]) - 9 / 24 * np.array([4.0, 10.0, 10.0])) / 8
    assert found.error == pytest.approx(np.std(residuals, ddof=1) / np.sqrt(3))
    assert found.text == "0.375 ± 0.148"
    exact = ratio(below, below, PATH)
    assert (exact.mean, exact.error) == (1.0, 0.0)


def test_a_score_without_meaning_is_left_out():
    a = cell("main/a", row(velocity_cosine=float("nan")), row(seed=1, velocity_cosine=0.8))
    assert a.mean("velocity_cosine") == pytest.approx(0.8)


def test_a_record_comes_back_as_it_was(tmp_path):
    kept = record(row(0, path_error=0.12345), row(1, velocity_cosine=-1.0), setting={"k": 1, "limit": None})
    write_record(tmp_path / "a.jsonl", kept)
    assert read_record(tmp_path / "a.jsonl") == kept
    assert read_record(tmp_path / "b.jsonl") is None


@pytest.fixture
def pretended(monkeypatch):
    """Numbers of the cases that were sampled, in place of sampling."""
    seen = []

    def pretend(_model, batch, _setting=None):
        seen.extend(case.index for case in batch)
        return [Result(case.wanted.render(), (0.0, 1.0)) for case in batch]

    monkeypatch.setattr(fidelity, "ceiling", pretend)
    monkeypatch.setattr(fidelity, "run", pretend)
    return seen


def test_what_is_measured_is_not_measured_again(tmp_path, pretended):
    cases = held_out_cases(5, 0)
    fidelity.measure(None, "main/ceiling", None, cases[:2], tmp_path, FACTS)
    fidelity.measure(None, "main/ceiling", None, cases, tmp_path, FACTS | {"run": "tomorrow"})
    fidelity.measure(None, "main/ceiling", None, cases, tmp_path, FACTS | {"run": "never"})
    assert pretended == [0, 1, 2, 3, 4]
    kept = read_record(cell_path(tmp_path, "main/ceiling"))
    assert [r["case"] for r in kept.rows] == pretended
    assert kept.runs == (FACTS["run"], "tomorrow")
    assert max(r["path_error"] for r in kept.rows) < 0.3 and min(r["shape"] for r in kept.rows) == 1.0


@pytest.mark.parametrize(
    "facts, setting",
    [({"model": "def"}, FAST), ({"precision": "bfloat16"}, FAST), ({}, replace(FAST, weight=1.0))],
)
def test_rows_of_another_model_precision_or_setting_are_neither_mixed_nor_lost(tmp_path, pretended, facts, setting):
    cases = held_out_cases(3, 0)
    fidelity.measure(None, "fast/fast", FAST, cases, tmp_path, FACTS)
    before = read_record(cell_path(tmp_path, "fast/fast"))
    with pytest.raises(SystemExit, match="delete it to measure it anew"):
        fidelity.measure(None, "fast/fast", setting, cases, tmp_path, FACTS | facts)
    assert read_record(cell_path(tmp_path, "fast/fast")) == before


def test_other_references_are_taken_by_number_and_make_no_page(tmp_path, pretended):
    few = ["--first", "3", "--cases", "2", "--seeds", "1", "--cells", "fast/[fn]*"]
    fidelity.main([*few, "--store", str(tmp_path / "few")])
    assert pretended == [3, 4, 3, 4]
    names = sorted(path.name for path in (tmp_path / "few").glob("*.jsonl"))
    assert names == [cell_path(tmp_path, name).name for name in ("fast/fast", "fast/no guidance")]
    assert not (tmp_path / "FIDELITY.md").exists()


def test_runs_side_by_side_share_the_cells():
    parts = [set(fidelity.chosen_cells("*", f"{i}/3")) for i in (1, 2, 3)]
    assert set.union(*parts) == set(fidelity.chosen_cells("*", "1/1"))
    assert set.union(*parts) == set(fidelity.sources(fidelity.cells()).values())
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_a_pattern_takes_the_cells_whose_rows_are_shown():
    assert set(fidelity.chosen_cells("k/*", "1/1")) == {"k/1", "fast/fast", "k/4", "fast/plain control"}


@pytest.mark.parametrize("pattern, part", [("*", "3/2"), ("*", "0/2"), ("*", "half"), ("none/*", "1/1")])
def test_no_part_and_no_cell(pattern, part):
    with pytest.raises(SystemExit, match=r"part .* is none|no cell matches"):
        fidelity.chosen_cells(pattern, part)


def test_a_batch_whose_writing_fails_leaves_the_rows_before_it(tmp_path, monkeypatch, pretended):
    fidelity.measure(None, "main/ceiling", None, held_out_cases(1, 0), tmp_path, FACTS)
    before = read_record(cell_path(tmp_path, "main/ceiling"))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        fidelity.measure(None, "main/ceiling", None, held_out_cases(2, 0), tmp_path, FACTS)
    assert read_record(cell_path(tmp_path, "main/ceiling")) == before
    assert len(list(tmp_path.glob("*.*"))) == 1


def test_rows_that_another_run_wrote_meanwhile_are_kept(tmp_path, monkeypatch):
    cases, path = held_out_cases(2, 0), cell_path(tmp_path, "main/ceiling")

    def meanwhile(_model, batch):
        write_record(path, Record(origin(), ("elsewhere",), (row(0, path_error=7.0), row(5))))
        return [Result(case.wanted.render(), (0.0, 1.0)) for case in batch]

    monkeypatch.setattr(fidelity, "ceiling", meanwhile)
    fidelity.measure(None, "main/ceiling", None, cases, tmp_path, FACTS)
    kept = read_record(path)
    assert [r["case"] for r in kept.rows] == [0, 5, 1] and kept.rows[0]["path_error"] == 7.0
    assert kept.runs == ("elsewhere", FACTS["run"])


def test_every_cell_has_a_file_of_its_own_and_of_a_plain_name(tmp_path):
    names = [cell_path(tmp_path, name).name for name in fidelity.cells()]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").replace(".", "").isalnum() for name in names)


def test_cells_of_one_setting_share_their_rows():
    cells = fidelity.cells()
    shown = fidelity.sources(cells)
    assert {shown[f"{axis}/{value}"] for axis, value in (
        ("k", 2), ("t_alpha", 400), ("block", "up_blocks.1"), ("weight", 2000), ("sampler", "euler (ddim)"),
    )} == {"fast/fast"}  # fmt: skip
    assert shown["steps/100"] == "main/guided" and shown["steps, equal push/30"] == "fast/fast"
    assert shown["steps/30"] == "fast/published weight"
    assert all(cells[name] == cells[source] for name, source in shown.items())


def test_the_control_moves_otherwise_and_does_not_depend_on_the_batch():
    few, many = held_out_cases(3, 0), held_out_cases(9, 1)
    for one, same in zip(few, many, strict=False):
        assert np.array_equal(one.other.render(), same.other.render())
        assert one.other.motion != one.reference.motion


def test_what_is_asked_for_is_not_what_the_reference_shows():
    for case in held_out_cases(64, 0):
        assert case.target.ground != case.reference.ground
        for asked, shown in zip(case.target.things, case.reference.things, strict=True):
            assert asked.shape != shown.shape and asked.colour != shown.colour


def test_the_right_video_scores_well_and_the_reference_itself_does_not_meet_the_caption():
    for case in held_out_cases(8, 0):
        perfect, other = (score(case, Result(scene.render(), (0.0, 1.0))) for scene in (case.wanted, case.reference))
        assert perfect.path_error < 0.3 and perfect.shape == perfect.colour == 1.0
        assert other.ground == 0.0 and other.colour < 1.0


SETTING = {"weight": 1.0, "limit": 0.12, "guided_steps": 10, "scheduler": ""}


def page_of(tmp_path, settings=None, cells=None, **values):
    """The page over all cells; path errors are their numbers from 1 unless values, or those of cells, differ."""
    shown = {name: name for name in fidelity.cells()}
    how = {name: (settings or {}).get(name, SETTING) for name in shown}
    for i, name in enumerate(shown):
        own = {"path_error": i + 1} | values | (cells or {}).get(name, {})
        rows = [row(case, seed, **own) for case in range(2) for seed in range(3)]
        write_record(cell_path(tmp_path / "cells", name), record(*rows, setting=how[name]))
    return written(tmp_path, shown, {name: origin(setting=how[name]) for name in shown})


def written(tmp_path, shown, origins):
    kinds = {0: "straight", 1: "curved"}
    write_report(tmp_path / "PAGE.md", tmp_path / "cells", shown, origins, LATENTS, kinds)
    return (tmp_path / "PAGE.md").read_text()


@pytest.fixture(autouse=True)
def a_folder_for_cells(tmp_path):
    (tmp_path / "cells").mkdir()


def test_the_page_has_every_measured_cell_its_plots_and_what_it_was_measured_with(tmp_path):
    page = page_of(tmp_path)
    for name in fidelity.cells():
        assert f"| {name.split('/', 1)[1]} |" in page
    for plot in ("main", "k", "t_alpha", "block", "weight", "steps", "steps_equal_push", "sampler"):
        assert (tmp_path / "cells" / f"{plot}.png").stat().st_size > 2000
        assert f"(cells/{plot}.png)" in page
    for fact in ("`abc`", "references: 2; seeds: 3", "float32", "measured on today, this machine"):
        assert fact in page


def test_a_difference_is_paired_and_its_error_is_over_the_references():
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    ours = cell("main/a", *(row(case, seed, path_error=10 * case + seed + case) for case, seed in pairs))
    theirs = cell("main/b", *(row(case, seed, path_error=10 * case + seed) for case, seed in pairs[::-1]))
    found = gain(ours, theirs, PATH)
    assert found.mean == pytest.approx(0.5)
    assert found.error == pytest.approx(np.std([0, 1], ddof=1) / np.sqrt(2))
    assert found.at_most(2.0)[1] == found.at_least(-1.0)[1] == found.within(1.6)[1] == "met"
    near = "met, by less than two standard errors"
    assert found.at_most(0.6)[1] == found.at_least(0.4)[1] == found.within(0.6)[1] == near
    assert found.at_most(0.0)[1] == found.at_least(1.0)[1] == found.within(0.0)[1] == f"missed{near[4:]}"
    assert found.at_most(-1.0)[1] == found.at_least(2.0)[1] == "**not met**"
    assert level(ours, PATH).mean == pytest.approx(6.0)


def test_the_page_says_what_is_met_and_what_is_not(tmp_path):
    def scores(path, cosine, shape, colour, consistency, fidelity=0.5, low=0.0):
        return {"path_error": path, "velocity_cosine": cosine, "shape": shape, "colour": colour,
                "consistency": consistency, "fidelity": fidelity, "low": low}  # fmt: skip

    page = page_of(
        tmp_path,
        cells={
            "main/no guidance": scores(20.0, 0.1, 0.9, 0.9, 0.90),
            "main/guided": scores(8.0, 0.85, 0.84, 0.86, 0.91, 0.7, low=-1.2),
            "fast/no guidance": scores(30.0, 0.2, 0.8, 0.9, 0.90, low=-1.1),
            "fast/fast": scores(6.0, 0.75, 0.76, 0.84, 0.89, 0.6, low=-1.6),
            "fast/another clip's motion": scores(29.0, 0.34, 0.8, 0.9, 0.90),
            "fast/plain control": scores(9.0, 0.81, 0.8, 0.9, 0.95, 0.66),
            "k/1": scores(7.0, 0.8, 0.8, 0.9, 0.88, 0.55),
            "fast/published weight": scores(9.0, 0.7, 0.8, 0.9, 0.90),
            "fast/published weight, plain control": scores(9.0, 0.3, 0.8, 0.9, 0.90),
        },
    )
    for line in (
        "path error, guided / unguided | at most 0.35 | 0.400 ± 0.000, **not met** | 0.200 ± 0.000, met |",
        "velocity cosine, guided | at least 0.80 | 0.850 ± 0.000, met | 0.750 ± 0.000, **not met** |",
        "shape, guided less unguided, points | at least -5 | -6.0 ± 0.0, **not met** | -4.0 ± 0.0, met |",
        "colour, guided less unguided, points | at least -5 | -4.0 ± 0.0, met | -6.0 ± 0.0, **not met** |",
        "guided less unguided | at least 0 | +0.0100 ± 0.0000, met | -0.0100 ± 0.0000, **not met** |",
        "clips' latents (unguided) | none | 6 of 6 (0), **not met** | 6 of 6 (6), **not met** |",
        "by half (unguided) | none | 0 of 6 (0), met | 6 of 6 (0), **not met** |",
        "another clip's motion less no guidance | within 0.15 | | +0.140 ± 0.000, met |",
        "k = 1 less k = 16, at an equal push | at least 0 | | -0.010 ± 0.000, **not met** |",
        "k = 1 less k = 16, under the published rule | at least 0 | | +0.400 ± 0.000, met |",
        "path error, `fast` less 100 steps, px | at most 0 | | -2.00 ± 0.00, met |",
        "velocity cosine, `fast` less 100 steps | at least 0 | | -0.100 ± 0.000, **not met** |",
        "| motion fidelity, `fast` less 100 steps | -0.100 ± 0.000 |",
        "| motion fidelity, k = 1 less k = 16, at an equal push | -0.110 ± 0.000 |",
        "| temporal consistency, k = 1 less k = 16, at an equal push | -0.0700 ± 0.0000 |",
        "| temporal consistency, k = 1 less `fast` | -0.0100 ± 0.0000 |",
        "| path error, another clip's motion less no guidance, px | -1.00 ± 0.00 |",
        "Beyond by half: fast/fast (6).",
    ):
        assert line in page, line


def test_latents_beyond_the_training_clips_and_what_is_no_number_are_counted(tmp_path):
    count = 6 * len(fidelity.cells())
    heads = "| clips | all | beyond -1.00 to 2.00 | beyond -1.50 to 3.00 |"

    def counted(**values):
        page = page_of(tmp_path, **values)
        assert heads in page
        (line,) = (line for line in page.splitlines() if line.startswith("| guided, sweeps included |"))
        return [int(entry) for entry in line.split("|")[2:5]]

    assert counted(low=-1.0, high=2.0) == [count, 0, 0]
    assert counted(low=-1.5, high=2.0) == [count, count, 0]
    assert counted(low=-1.0, high=3.1) == [count, count, count]
    assert "skipped for them: 0." in page_of(tmp_path)
    assert f"skipped for them: {count}." in page_of(tmp_path, low=float("nan"))
    assert f"skipped for them: {2 * count}." in page_of(tmp_path, skipped=2)


def test_cells_without_guidance_and_without_a_bound_are_counted_apart(tmp_path):
    name = "main/guided, without the limit"

    def counted(**setting):
        page = page_of(tmp_path, {name: SETTING | {"limit": None} | setting}, high=3.1)
        return [kind for kind in ("without guidance", "without a limit") if f"{kind} | 6 | 6 | 6 |" in page]

    assert counted() == ["without a limit"]
    assert counted(weight=0.0) == ["without guidance"]
    assert counted(update_rule="normalised") == []


def test_the_page_says_where_the_limit_acted(tmp_path):
    page = page_of(tmp_path, {"block/mid_block": SETTING, "sampler/lcm": SETTING | {"scheduler": "lcm"}}, limited=1)
    assert "mid_block: 10.0 %" in page
    assert "lcm: 11.1 %" in page  # nine of its ten guided steps


@pytest.mark.parametrize("content", ["", "{", "[]", '{"origin": {}}'])
def test_a_damaged_record_is_named(tmp_path, content):
    path = tmp_path / "k__1.jsonl"
    path.write_text(content)
    with pytest.raises(SystemExit, match=r"k__1\.jsonl is damaged .*: delete it"):
        read_record(path)


def test_a_page_of_nothing_is_not_written(tmp_path):
    with pytest.raises(SystemExit, match="has no rows of today's model and settings"):
        written(tmp_path, {"k/1": "k/1"}, {"k/1": origin()})
    assert not (tmp_path / "PAGE.md").exists()


@pytest.mark.parametrize("options", [["--cases", "0"], ["--seeds", "-1"]])
def test_there_is_something_to_measure(tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        fidelity.main([*options, "--store", str(tmp_path / "none")])
    assert "choose 1 or more of both" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="absent"):
        fidelity.main(["--model", str(tmp_path / "absent.safetensors"), "--store", str(tmp_path)])


def test_a_table_by_motion_has_the_clips_of_each(tmp_path):
    page = page_of(tmp_path)
    # "fast" is the seventh cell, "no guidance" the fifth; one reference has no error.
    for kind in ("straight", "curved"):
        assert f"| {kind} | 1 | 3 | 7.00 | 5.00 | 0.500 | +0.0000 |" in page


def test_references_that_nothing_was_chosen_on_stand_apart(tmp_path):
    assert "nothing was chosen on\n" not in page_of(tmp_path)
    for name, error in (("fast/fast", 1.0), ("fast/no guidance", 4.0)):
        rows = [row(case, path_error=error * case) for case in (5, 6, 7)]
        write_record(cell_path(tmp_path / "cells" / "fresh", name), record(*rows, setting=SETTING))
    page = page_of(tmp_path)
    assert "Half of the 3\nguided clips stay within 6.0 pixels" in page
    assert "The same over references 5 to 7, measured by" in page and "--first 5 " in page
    assert "67 % are more than 5 away" in page
    assert "| path error, guided / unguided | at most 0.35 | 0.250 ± 0.000, met |\n" in page


def test_no_comparison_of_cells_over_different_clips(tmp_path):
    assert "not finished" not in page_of(tmp_path)
    guided = cell_path(tmp_path / "cells", "main/guided")
    write_record(guided, Record(read_record(guided).origin, (), read_record(guided).rows[:2]))
    shown = {name: name for name in fidelity.cells()}
    page = written(tmp_path, shown, {name: origin(setting=SETTING) for name in shown})
    assert "| asked |" not in page
    assert f"**not finished**: {len(shown)} of {len(shown)} cells, over 2 to 6 clips" in page


def test_rows_of_another_model_or_setting_are_not_shown(tmp_path):
    for name, how in (("k/1", {}), ("k/2", {"model": "def"}), ("k/4", {"setting": SETTING})):
        write_record(cell_path(tmp_path, name), record(row(), **how))
    shown = {name: name for name in ("k/1", "k/2", "k/4", "k/16")}
    assert set(read_cells(tmp_path, shown, dict.fromkeys(shown, origin()))) == {"k/1"}


def test_a_table_says_mean_and_spread():
    line = table([cell("k/4", row(0, 0, path_error=2.0), row(1, 0, path_error=4.0))], "k").splitlines()[-1]
    assert line.startswith("| 4 | 3.00 ± 1.00 |")
    assert PATH.written(-0.5, float("nan"), sign="+") == "-0.50"


def test_cells_cover_what_is_promised():
    names = fidelity.cells()
    assert {"main/no guidance", "main/guided", "main/ceiling"} <= set(names)
    assert {"fast/no guidance", "fast/fast", "fast/another clip's motion", "fast/plain control"} <= set(names)
    for axis in ("k", "t_alpha", "block", "weight", "steps", "sampler"):
        assert sum(name.startswith(axis + "/") for name in names) >= 4
    assert {f"sampler/{name}" for name in SCHEDULERS} <= set(names)


def test_the_settings_are_those_of_the_presets():
    cells = fidelity.cells()
    published, fast = PRESETS["camera"], PRESETS["fast"]
    for name in ("steps", "guided_steps", "ratio", "weight", "warm_up", "cool_down", "limit", "update_rule", "k"):
        assert getattr(cells["main/guided, without the limit"], name) == getattr(published, name)
        assert getattr(cells["fast/fast"], name) == getattr(fast, name)
    assert cells["main/guided"] == replace(cells["main/guided, without the limit"], limit=0.04)
    assert cells["fast/another clip's motion"] == replace(cells["fast/fast"], other_motion=True)


def test_each_sweep_varies_what_it_says_and_nothing_else():
    cells = fidelity.cells()
    for axis, field in (("k", "k"), ("t_alpha", "t_alpha"), ("block", "blocks"), ("weight", "weight")):
        for name, setting in cells.items():
            if name.startswith(axis + "/"):
                value = getattr(setting, field)
                assert name == f"{axis}/{value if isinstance(value, str) else format(value, 'g')}"
                assert replace(setting, **{field: getattr(FAST, field)}) == FAST
    for steps in (15, 20, 50):
        setting = cells[f"steps, equal push/{steps}"]
        pushes = (s.weight * sum(s.window.ramp(i, s.steps) for i in range(s.steps)) for s in (FAST, setting))
        assert setting.steps == steps and len({round(push, -1) for push in pushes}) == 1


def test_the_control_is_led_by_the_other_reference(monkeypatch):
    read = []
    monkeypatch.setattr(measuring, "read_motion", lambda _model, video, _setting, *, seed: read.append(video))
    (case,) = held_out_cases(1, 0)
    for setting in (FAST, replace(FAST, other_motion=True)):
        measuring.representations(None, [case], setting)
    own, other = read
    assert np.array_equal(own, case.reference.render()) and np.array_equal(other, case.other.render())
