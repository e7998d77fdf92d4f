"""What of AnimateDiff-Evolved's the host refuses, told without it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from motionclone_core.hosts.base import UnsupportedModelError
from motionclone_core.hosts.comfy_animatediff import AnimateDiffHost
from motionclone_core.hosts.comfy_weights import unpatched


def patcher(*, mm_format: str = "AnimateDiff", camera_encoder: object | None = None, count: int = 1) -> SimpleNamespace:
    info = SimpleNamespace(mm_name="some_module.ckpt", mm_format=mm_format)
    motion_model = SimpleNamespace(model=SimpleNamespace(mm_info=info, camera_encoder=camera_encoder))
    models = {"ADE": [motion_model] * count}
    return SimpleNamespace(get_additional_models_with_key=lambda key: models.get(key, []))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"camera_encoder": object()}, "some_module.ckpt is loaded with CameraCtrl"),
        ({"mm_format": "FancyVideo"}, "some_module.ckpt is loaded with FancyVideo"),
        ({"count": 2}, "2 AnimateDiff motion modules"),
        ({"count": 0}, "no AnimateDiff motion module"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_a_model_is_refused_by_name(given: dict, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        AnimateDiffHost(patcher(**given))


def test_one_motion_module_alone_is_taken() -> None:
    assert AnimateDiffHost(patcher()).name == "some_module.ckpt"


def test_a_motion_lora_leaves_the_weights_of_the_fingerprint_as_they_were() -> None:
    network = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4), "to_k": torch.nn.Linear(4, 4)})
    own = network["to_q"].weight.detach().clone()
    with torch.no_grad():
        network["to_q"].weight += 1.0
    patched = SimpleNamespace(backup={"to_q.weight": SimpleNamespace(weight=own)})
    found = unpatched(patched, network, {"q": network["to_q"].weight, "k": network["to_k"].weight})
    assert torch.equal(found["q"], own) and found["k"] is network["to_k"].weight
