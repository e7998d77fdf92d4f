"""What of AnimateDiff-Evolved's the host refuses, told without it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from motionclone_core.hosts.base import UnsupportedModelError
from motionclone_core.hosts.comfy_animatediff import AnimateDiffHost


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
