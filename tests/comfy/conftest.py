"""One ComfyUI server for all tests here, with random weights of the real shapes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_server import ComfyServer
from find_comfyui import ComfyUI, ComfyUINotFound, check_interpreter, check_packs, find_comfyui
from random_models import CLIP_L, WAN_VAE, ModelFiles, ensure_models, ensure_other, ensure_small
from scenes import Studio, write_loras

HERE = Path(__file__).parent
PROBE_PACK = HERE / "probe_pack"
collect_ignore = ["probe_pack"]
REQUIRED = "MOTIONCLONE_REQUIRE_COMFY"  # set by `make test-comfy`: no ComfyUI is then a failure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.comfy)


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    try:
        found = find_comfyui()
        check_interpreter(found)
        check_packs(found)
    except ComfyUINotFound as error:
        if os.environ.get(REQUIRED):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="session")
def models(comfyui: ComfyUI) -> ModelFiles:
    """The random weights; made now if they are not in the cache."""
    return ensure_models(comfyui)


@pytest.fixture(scope="session")
def small(comfyui: ComfyUI) -> dict[str, Path]:
    """Diffusion transformers of small shapes, and a VAE of videos; made now if they are not in the cache."""
    return ensure_small(comfyui)


@pytest.fixture(scope="session")
def server(
    comfyui: ComfyUI, models: ModelFiles, small: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """The server that all tests share. A test that needs other arguments starts its own."""
    clip = ensure_other(comfyui, CLIP_L)
    linked = {
        "text_encoders": [clip],
        "vae": [small[WAN_VAE]],
        "diffusion_models": [file for name, file in small.items() if name != WAN_VAE],
        "clip_vision": [clip],
        "checkpoints": [models.checkpoint],
        "animatediff_models": [models.motion_module],
        "controlnet": [models.sparse_control, models.scribble_control, models.controlnet],
        **write_loras(tmp_path_factory.mktemp("loras")),
    }
    # Classic caching keeps what the last prompt used, so that the next one does not load the models again.
    arguments = ["--cache-classic", "--preview-method", "latent2rgb"]
    with ComfyServer(comfyui, models=linked, packs=[PROBE_PACK], extra_args=arguments) as running:
        yield running


@pytest.fixture(scope="session")
def studio(server: ComfyServer, models: ModelFiles) -> Studio:
    """Runs scenes on the shared server."""
    return Studio(server, models)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows the end of the server's log."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and running is not None and running.log_path.exists():
        report.sections.append(("ComfyUI's log (end)", running.log_tail()))
    return report
