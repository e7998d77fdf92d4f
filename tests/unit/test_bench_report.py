"""The page of costs: medians of pairs, a straight line to the full size, and the floor."""

import json

import pytest

from bench import with_row
from bench_report import at_full_size, write_page
from floor import Floor

MIB = 2**20


def run(**changes):
    measured = {
        "size": 256, "frames": 16, "mode": "speed", "control": False, "seconds": [[3.0, 2.0], [9.0, 3.0], [5.0, 2.5]],
        "peak": [3 * 2**30, 0], "passes": [[1.0, 2.0], [3.0, 4.0], [1.2, 2.0]], "motion_file": 600 * 1024,
        "date": "a day",
    }  # fmt: skip
    counted = [
        {
            "size": side, "frames": 16, "mode": "speed", "control": False, "kept": (5 + side**2 // 256) * MIB,
            "date": "a day", "weights": 3 * 2**30 // 4, "peaks": [40 * MIB, 10 * MIB],
            "by_layer": {f"layer {i}": i * MIB for i in range(20)},
        }
        for side in (64, 128)
    ]  # fmt: skip
    run = {"machine": "a machine", "cpu": True, "comfyui": "1.2", "arguments": ["--cpu"]}
    shared = {key: measured[key] for key in ("size", "frames", "mode", "control", "date")}
    shared["seconds"] = [[4.0, 2.2, 2.0], [9.0, 3.0, 3.0], [3.0, 2.7, 3.0]]
    return run | {"measured": [measured], "counted": counted, "shared": [shared]} | changes


def page(tmp_path, *runs):
    store = tmp_path / "performance"
    store.mkdir(parents=True)
    for i, one in enumerate(runs):
        (store / f"{i}.json").write_text(json.dumps(one))
    write_page(store, [Floor(512, whole=100, part=50, back=60)])
    return (tmp_path / "PERFORMANCE.md").read_text()


def test_the_ratio_is_the_median_of_the_pairs_ratios(tmp_path):
    text = page(tmp_path, run())
    assert "| 16 frames of 256 x 256 | speed | 2.000 (1.500 to 3.000) | - | 5.00 |" in text
    assert "| 5.00 | 0.600 (0.500 to 0.750) | 3.00 | - | 600 | 3 |" in text


def test_the_floor_stands_beside_the_ratio_of_its_size(tmp_path):
    (row,) = run()["measured"]
    text = page(tmp_path, run(measured=[{**row, "size": 512}]))
    assert "| 16 frames of 512 x 512 | speed | 2.000 (1.500 to 3.000) | 1.300 | 5.00 |" in text


def test_steps_that_share_a_gradient_cost_one_gradient(tmp_path):
    # The medians: of 2, 3 and 1 steps' worth; (4 + 2.2) / 4 of 1.55, 2 and 0.95; and so on.
    line = "| 16 frames of 256 x 256 | speed | 1.000 (0.900 to 1.100) | 2.000 | 1.550 | 1.400 | 1.325 | 3 |"
    assert line in page(tmp_path, run())
    assert "1.325" not in page(tmp_path / "again", run(shared=[]))


def test_what_is_kept_is_drawn_on_to_the_full_size_in_a_straight_line(tmp_path):
    assert at_full_size([128, 64], [5 + 64, 5 + 16]) == 5 + 512**2 / 256
    text = page(tmp_path, run())
    assert "| 16 frames of 128 x 128 | speed | 69 | 40 | 10 | 1.52 |" in text
    assert "| 16 frames of 512 x 512, by a straight line | speed | 1029 | 40 | 10 | 1.52 |" in text


def test_one_size_is_drawn_on_to_nothing(tmp_path):
    assert "straight line |" not in page(tmp_path, run(counted=run()["counted"][:1]))


def test_long_clips_and_sparse_control_are_told_apart_and_not_drawn_on(tmp_path):
    one, two = run()["counted"]
    rows = [one, two, {**one, "frames": 64}, {**one, "control": True}]
    text = page(tmp_path, run(counted=rows))
    assert "| 64 frames of 64 x 64 in windows of 16 | speed | 21 |" in text
    assert "| 16 frames of 64 x 64, SparseCtrl | speed | 21 |" in text
    assert text.count("by a straight line") == 1


def test_the_layers_that_keep_most_are_named_and_the_rest_is_summed(tmp_path):
    text = page(tmp_path, run())
    assert "| 16 frames of 128 x 128, speed | kept, MiB |" in text
    assert "| `layer 19` | 19.0 |" in text and "`layer 7`" not in text
    assert "| all others | 28.0 |" in text


def test_the_floor_of_a_guided_step_is_two_passes_and_the_way_back(tmp_path):
    # Two passes are 200, the way back 60.
    assert "| 512 x 512 | 0.00 | 0.500 | 0.600 | 1.300 |" in page(tmp_path, run())


def test_every_machine_has_its_part(tmp_path):
    text = page(tmp_path, run(), run(machine="another", cpu=False, counted=[]))
    assert "## a machine\n\nCPU, ComfyUI 1.2 with `--cpu`, a day." in text
    assert "## another\n\nGPU" in text


def test_nothing_measured_is_no_page(tmp_path):
    with pytest.raises(SystemExit, match="has no measurement"):
        write_page(tmp_path, [])


def test_a_row_takes_the_place_of_that_of_its_case_and_no_other():
    (before,) = run()["measured"]
    after, longer, controlled = {**before, "date": "another"}, {**before, "frames": 64}, {**before, "control": True}
    rows = with_row(with_row([before], longer), controlled)
    assert with_row(rows, after) == [after, controlled, longer]
