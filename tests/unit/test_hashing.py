"""What two models or prompts must share to count as the same, and what they may differ in."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from motionclone_core.hosts.hashing import hashed


def merging(ratio: float) -> Any:
    """A patch that remembers between its calls, as ComfyUI's token merging does."""
    merge = None

    def patch(x: float) -> float:
        nonlocal merge
        merge = merge or (lambda y: y * ratio)
        return merge(x)

    return patch


def scaling(table: dict[int, tuple[float, float]]) -> Any:
    seen: list[float] = []

    def patch(x: float) -> float:
        seen.append(x)
        return x * table[0][0]

    return patch


class Hook:
    def __init__(self, strength: float) -> None:
        self._strength_model, self.weights = strength, {"up": torch.ones(2)}


class Hooks:
    def __init__(self, *hooks: Hook) -> None:
        self.hooks = list(hooks)


class Control:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.control_model, self.strength = torch.nn.Linear(2, 2), 1.0


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (merging, 0.3, 0.5),
        (scaling, {0: (1.1, 0.9)}, {0: (1.3, 0.9)}),
        (lambda x: partial(max, x), 1, 2),
        (lambda x: Hooks(Hook(x)), 0.2, 1.0),
        (Control, 1, 2),
        (lambda x: {"patches": {"attn1_patch": [merging(x)]}}, 0.3, 0.5),
    ],
)
def test_the_same_settings_hash_alike_and_others_do_not(make: Any, one: Any, other: Any) -> None:
    assert hashed(make(one)) == hashed(make(one)) != hashed(make(other))


def test_a_variable_that_holds_nothing_yet_is_passed_over() -> None:
    def patch() -> float:
        return scale

    if torch.is_inference_mode_enabled():
        scale = 2.0
    assert hashed(patch) == hashed(patch)


def test_other_functions_hash_otherwise() -> None:
    assert hashed(merging(0.3)) != hashed(scaling({0: (0.3, 0.3)}))


@pytest.mark.parametrize("patch", [merging(0.3), scaling({0: (2.0, 1.0)})])
def test_a_run_does_not_change_what_a_patch_is(patch: Any) -> None:
    before = hashed(patch)
    patch(1.0)
    assert hashed(patch) == before
