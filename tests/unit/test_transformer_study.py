"""The page on diffusion transformers says what the rows say."""

from dataclasses import asdict

import pytest

pytest.importorskip("diffusers")

from embedded.measuring import Score
from fidelity_store import Record, cell_path, write_record
from transformer_report import CONTROL, FLOOR, GUIDED, section
from transformer_study import BLOCKS, FAMILIES, cells, inputs_of

CARD = dict.fromkeys(("file", "hash", "size", "parameters", "blocks", "width", "steps", "hours", "loss"), "7")
SCORE = asdict(Score(*[1.0] * 13, 0, 0))


def written(tmp_path, **paths):
    """A section of cells with these path errors, one pixel more for each further reference."""
    origins = {name: {"setting": {"weight": 1.0}} for name in cells("wan")}
    for name, path in paths.items():
        rows = tuple({**SCORE, "case": i, "seed": 0, "path_error": path + i} for i in range(4))
        write_record(cell_path(tmp_path, f"wan/{name}"), Record(origins[name], ("today",), rows))
    return section("wan", tmp_path, origins, CARD, "As chosen.")


def test_the_answer_is_the_guided_error_over_the_unguided(tmp_path):
    text = written(tmp_path, **{FLOOR: 18.5, GUIDED: 4.5, CONTROL: 18.5})
    assert "| path error guided / unguided | at most 0.5 | 0.300 ±" in text
    assert "| path error under another clip's motion / unguided | near 1 | 1.000 ± 0.000 |" in text
    assert "Measured: today." in text


def test_what_is_not_measured_is_not_shown(tmp_path):
    text = written(tmp_path, **{FLOOR: 20.0, GUIDED: 15.0, "blocks/2": 9.0})
    assert "**not met**" in text and "another clip" not in text
    assert "### Which block" in text and "### Weight" not in text


def test_an_axis_holds_the_chosen_setting_over_its_own_references(tmp_path):
    origins = {name: {"setting": {"weight": 1.0}} for name in cells("wan")}
    for name, count in ((GUIDED, 4), ("blocks/2", 2), ("blocks/3", 3), ("blocks/4", 2)):
        rows = tuple({**SCORE, "case": i, "seed": 0, "path_error": 3.0 + i} for i in range(count))
        write_record(cell_path(tmp_path, f"wan/{name}"), Record(origins[name], ("today",), rows))
    lines = section("wan", tmp_path, origins, CARD, "As chosen.").splitlines()
    rows = [line.split(" | ")[:2] for line in lines if line.startswith(("| 2 ", "| 3 ", "| 4 ", "| as chosen"))]
    assert [label.strip("| ") for label, _ in rows] == ["2", "4", "as chosen", "3", "as chosen"]
    assert [error for label, error in rows if "chosen" in label] == ["3.50 ± 0.50", "4.00 ± 0.58"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_tried_alone_and_none_beyond(family):
    tried = {name: setting for name, setting in cells(family).items() if name.startswith("blocks/")}
    assert [setting.blocks for setting in tried.values()] == [f"blocks.{i}" for i in range(BLOCKS[family])]


def test_the_worker_gets_latent_frames_and_noise_of_its_own_for_each_clip():
    from embedded.measuring import held_out_cases
    from embedded.model import load_model

    found = inputs_of(load_model(), held_out_cases(2, 0, frames=25))
    assert found["reference"].shape == found["other"].shape == (2, 16, 7, 16, 16)
    assert found["words"].shape == (2, 6) and found["null"].shape == (6,)
    assert found["seeds"][0] != found["seeds"][1]
