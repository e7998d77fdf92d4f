"""A real server with what the example workflows ask for, and ComfyUI's own editor in headless Chromium before it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from comfy_server import ComfyServer
from draw_clip import draw_inputs
from editor import Editor, NoBrowserError, editor, find_chromium
from find_comfyui import PACK, ComfyUI, ComfyUINotFound, check_interpreter, check_packs, find_comfyui
from random_models import TEXT_TYPES, model_files, published_links, published_names
from scenes import LORA, write_loras

REQUIRED = "MOTIONCLONE_REQUIRE_BROWSER"
SCREENSHOTS = PACK / ".test-results" / "browser"


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    """The ComfyUI that there is, if there is a Chromium too."""
    try:
        find_chromium()
        found = find_comfyui()
        check_interpreter(found)
        check_packs(found)
    except (ComfyUINotFound, NoBrowserError) as error:
        if os.environ.get(REQUIRED):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="session")
def server(comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with random weights under the names that the workflows ask for, and the clips that they load."""
    folder = tmp_path_factory.mktemp("models")
    linked = published_links(comfyui, folder)
    # ComfyUI takes a .ckpt for a pickle, whatever it holds: what is run goes by its own name.
    for kind, names in published_names(model_files()).items():
        linked[kind] += names.values()
    linked["loras"] += write_loras(folder)["loras"]
    # The browser draws meanwhile: threads that wait for one another would wait for it as well.
    alone = {"OMP_NUM_THREADS": "1"}
    with ComfyServer(comfyui, models=linked, extra_args=["--preview-method", "latent2rgb"], env=alone) as running:
        for file in draw_inputs(folder / "inputs", size=(96, 64)):
            running.add_input(file)
        yield running


@pytest.fixture(scope="session")
def stand_ins() -> dict[str, str]:
    """Random weights that run, by the names that the workflows ask for."""
    published = (pair for names in published_names(model_files()).values() for pair in names.items())
    return {name: file.name for name, file in published} | {"v3_sd15_adapter.ckpt": LORA} | TEXT_TYPES


@pytest.fixture(scope="session")
def browser(server: ComfyServer) -> Iterator[Editor]:
    """The editor that all tests share."""
    with editor(server) as opened:
        yield opened


@pytest.fixture
def page(browser: Editor, request: pytest.FixtureRequest) -> Iterator[Editor]:
    """The editor with an empty sheet; a picture of how a test left it is kept."""
    browser.clear()
    yield browser
    browser.shoot(SCREENSHOTS / f"{re.sub(r'[^a-z0-9]+', '_', request.node.name.lower()).strip('_')}.png")
