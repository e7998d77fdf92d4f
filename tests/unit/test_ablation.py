"""What is said of the paper's findings, and how their cells read motions."""

from dataclasses import asdict, replace

import pytest
import torch

pytest.importorskip("diffusers")

from ablation_cells import cells, findings, section
from embedded.measuring import FAST, ReadSetting, held_out_cases, representations
from embedded.model import load_model
from fidelity import cells as other_cells
from fidelity_cells import Cell
from fidelity_store import Record
from motionclone_core.series import MotionSeries

TAP = "up_blocks.1.motion.0.attention.0"


def cell(name, path, cosine, *, cases=4, noise=0.1):
    """A cell whose scores differ from case to case by a little."""
    spread = [noise * (-1) ** case for case in range(cases)]
    rows = tuple(
        {"case": case, "seed": 0, "path_error": path + off, "velocity_cosine": cosine + off / 10}
        for case, off in enumerate(spread)
    )
    return Cell(name, Record({"setting": {}}, (), rows))


def said(one, other, name_of_one="fast/fast", name_of_other="t_alpha/800"):
    found = findings({name_of_one: cell(name_of_one, *one), name_of_other: cell(name_of_other, *other, noise=0.3)})
    return found.splitlines()[-1].split(" | ")[4]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((2.0, 0.9), (4.0, 0.5), "reproduced"),
        ((4.0, 0.5), (2.0, 0.9), "**refuted**"),
        ((2.0, 0.9), (2.01, 0.899), "open"),
        ((2.0, 0.5), (4.0, 0.9), "reproduced by the path error, **refuted** by the cosine"),
    ],
)
def test_what_is_better_is_told_by_two_standard_errors(one, other, expected):
    assert said(one, other) == expected


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ((4.0, 0.9), "reproduced"),
        ((2.0, 0.5), "**refuted**"),
        ((5.6, 0.9), "open by the path error, reproduced by the cosine"),
    ],
)
def test_what_changes_little_is_told_by_how_much_it_changes(one, expected):
    assert said(one, (4.0, 0.9), "reading/caption", "fast/fast") == expected


def test_only_clips_that_both_have_are_held_against_each_other():
    few, many = cell("fast/fast", 2.0, 0.9, cases=3), cell("t_alpha/800", 4.0, 0.5, cases=7)
    line = findings({"fast/fast": few, "t_alpha/800": many}).splitlines()[-1]
    assert line.endswith("| 3 | 3 |")


def test_nothing_is_said_of_what_is_not_measured():
    assert findings({}) == ""
    assert section({"fast/fast": cell("fast/fast", 1.0, 1.0)}, lambda shown, first: "") == ""


def test_the_cells_shown_elsewhere_keep_their_settings():
    """Rows are kept by their setting: a field more would ask for all of them anew."""
    assert "inversion" not in asdict(FAST)
    assert not set(map(str, cells().values())) & set(map(str, other_cells().values()))


@pytest.fixture(scope="module")
def motions():
    """Of one reference, read in three ways: its caption, and both inversions."""
    model, case = load_model(), held_out_cases(1, 0)
    short = ReadSetting(**{**asdict(FAST), "steps": 3, "guided_steps": 2}, caption=True, inversion_steps=3)
    settings = {
        "none": replace(short, caption=False),
        "caption": short,
        "once": replace(short, inversion=2),
        "every": replace(short, inversion=1),
    }
    return {name: representations(model, case, setting)[0] for name, setting in settings.items()}


def test_motions_are_read_as_the_settings_say(motions):
    # Three steps of inversion lie at 0, 500 and 999; the guided steps at 600 and 999.
    assert motions["once"].provenance.t_alpha == 500
    assert isinstance(motions["every"], MotionSeries) and motions["every"].timesteps == (500, 999)
    assert torch.equal(*(motion.taps[TAP].values for motion in (motions["once"], motions["every"].at(500))))


def test_a_caption_is_another_reading(motions):
    none, caption = (motions[name].taps[TAP].values for name in ("none", "caption"))
    assert none.shape == caption.shape and not torch.equal(none, caption)
