"""The unguided video beside a run in ComfyUI, step by step; ComfyUI itself is played."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from motionclone_core.semantics import Appearance

SIGMAS = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
PLAYED = {
    "comfy.model_management": SimpleNamespace(throw_exception_if_processing_interrupted=lambda: None),
    "comfy.ldm.modules.attention": SimpleNamespace(BasicTransformerBlock=torch.nn.Module),
}
PARTS = ("comfy_conditions", "comfy_crossattention", "comfy_appearance")


@pytest.fixture
def branch_of(monkeypatch):
    """`AppearanceBranch`, imported without ComfyUI, and forgotten again."""
    packages = ("comfy", "comfy.ldm", "comfy.ldm.modules")
    for name, module in {**{name: SimpleNamespace(__path__=[]) for name in packages}, **PLAYED}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for part in PARTS:
        monkeypatch.delitem(sys.modules, f"motionclone_core.hosts.{part}", raising=False)
    yield import_module("motionclone_core.hosts.comfy_appearance").AppearanceBranch
    for part in PARTS:
        sys.modules.pop(f"motionclone_core.hosts.{part}", None)


class Switched:
    """A host whose motion module is switched on and off once a step is under way, and a guide that compares all."""

    taps = ("a tap",)

    def __init__(self):
        self.on = True

    def off(self, taps):
        return () if self.on else tuple(taps)

    def compares(self, step, total_steps):
        return True

    def reader(self, frames, size):
        def result():
            assert self.on, "nothing is read of a motion module that is off"
            return Appearance({})

        return SimpleNamespace(result=result)


def test_it_is_read_where_the_motion_module_is_on(branch_of):
    model, conds = Switched(), [[{"uuid": 1}]]
    branch = branch_of(model, model, lambda: None)
    for step, on in enumerate((True, False, False, True)):

        def predict(x, sigma, on=on):
            model.on = on
            branch.conditions(lambda conds: [torch.zeros_like(x) for _ in conds], conds)
            return torch.zeros_like(x)

        branch.follow(step, SIGMAS, torch.ones(4, 4, 2, 2), frozenset([1]), predict)
        assert (branch.shown is not None) == on
