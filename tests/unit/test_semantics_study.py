"""Clips of one object among distractors, and the page that says what semantic guidance does with them."""

import numpy as np
import pytest

pytest.importorskip("diffusers")

from embedded.measuring import Result
from fidelity_store import Record, cell_path, write_record
from semantics_report import CHOSEN, FLOOR, MOTION, cells, write_page
from semantics_study import NAMED, cases_of_two, row_of, semantics_of


def test_the_caption_has_one_thing_and_the_reference_two():
    cases = cases_of_two(3, 0)
    assert [case.index for case in cases] == [3, 7, 11]
    for case in cases:
        assert len(case.reference.things) == 2 and len(case.target.things) == 1
        assert case.target.words[2:4] == ("nothing", "nothing")


def test_references_that_settings_were_chosen_on_are_others():
    assert [case.index for case in cases_of_two(2, 64)] == [67, 71]


@pytest.mark.parametrize("thing", [0, 1])
def test_what_follows_the_named_thing_is_told_from_what_follows_the_distractor(thing):
    (case,) = cases_of_two(1, 0)
    video = case.reference.alone(thing).dressed_as(case.target).render()
    row = row_of(case, Result(video, (0.0, 1.0)))
    apart = np.linalg.norm(case.reference.paths[0] - case.reference.paths[1], axis=-1).mean()
    near, far = ("path_error", "to_other") if thing == 0 else ("to_other", "path_error")
    # Found in pictures, to a fraction of a pixel.
    assert row[near] < 1.0 and row[far] == pytest.approx(apart, abs=1.0)
    assert row["shape"] == row["colour"] == row["ground"] == 1.0


def test_the_words_that_are_named_are_the_first_things_colour_and_shape():
    (case,) = cases_of_two(1, 0)
    semantics = semantics_of(case, cells()[CHOSEN])
    assert semantics.words.words == (case.target.things[0].colour, case.target.things[0].shape)
    assert semantics.words.tokens == NAMED
    assert semantics_of(case, cells()[MOTION]) is None


def record(setting, shape, path):
    keys = ("colour", "ground", "to_other", "velocity_cosine")
    rows = [{"case": i, "seed": 0, "shape": shape, "path_error": path + i, **dict.fromkeys(keys, 1.0)} for i in (3, 7)]
    return Record({"setting": setting}, ("today, on an abacus",), tuple(rows))


def test_the_page_holds_both_against_the_motion_alone(tmp_path):
    origins = {name: {"setting": name} for name in cells()}
    for name, shape, path in ((FLOOR, 1.0, 20.0), (MOTION, 0.75, 4.0), (CHOSEN, 1.0, 3.0)):
        write_record(cell_path(tmp_path, name), record(name, shape, path))
    write_page(tmp_path / "page.md", tmp_path, origins)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| shape, % | at least -5 | +25.0 ± 0.0 | met |" in page
    assert "| path error, px | at most +1 | -1.00 ± 0.00 | met |" in page
    assert "measured on today, on an abacus" in page and "other/" not in page


def test_no_page_without_the_cells_that_it_compares(tmp_path):
    with pytest.raises(SystemExit, match="motion and semantics: measure first"):
        write_page(tmp_path / "page.md", tmp_path, {name: {} for name in cells()})
    assert not (tmp_path / "page.md").exists()
