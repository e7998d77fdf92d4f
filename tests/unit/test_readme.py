"""The settings that README.md quotes are those of the code."""

from pathlib import Path

import pytest

from motionclone_core.guidance import DEFAULT_WEIGHT, PUSH_PER_WEIGHT
from motionclone_core.schedule import PRESETS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(README.split())


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets(name):
    preset = PRESETS[name]
    assert f"| `{name}` | {preset.steps} | {preset.guided_steps} | {preset.ratio} |\n" in README


def test_what_the_published_presets_share():
    shared = {(p.weight, p.warm_up, p.cool_down, p.cfg, p.limit, p.k) for name, p in PRESETS.items() if name != "fast"}
    ((weight, warm_up, cool_down, cfg, limit, k),) = shared
    assert (limit, k) == (None, 1)
    text = f"with weight {weight:g}, {warm_up} steps of warm-up, {cool_down} of cool-down and cfg {cfg}"
    assert text in TEXT


def test_what_fast_has_of_its_own():
    fast = PRESETS["fast"]
    ramps = f"no warm-up, {fast.cool_down} steps of cool-down and `k` {fast.k}"
    assert f"`fast` has the rule `{fast.update_rule}`, {ramps}" in TEXT
    assert (fast.warm_up, fast.limit, fast.weight) == (0, None, DEFAULT_WEIGHT)


def test_what_a_normalised_weight_means():
    assert f"of which {DEFAULT_WEIGHT:g} push by {PUSH_PER_WEIGHT * DEFAULT_WEIGHT:g} of the noise" in TEXT
