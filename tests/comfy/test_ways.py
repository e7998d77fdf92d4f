"""Every way in which ComfyUI keeps weights and computes attention: a guided step moves by the literal gradient.

One server for each way, which takes a minute: these tests are run by `make test-ways`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conftest import PROBE_PACK
from test_gradient import SIGMA, SIGMA_NEXT, relative_error

from comfy_server import ComfyServer
from find_comfyui import ComfyUI
from random_models import ModelFiles
from scenes import SCALE, Studio

pytestmark = pytest.mark.ways
# Half-precision attention is too slow on a CPU to be one of them.
WAYS = {
    "fp32": ["--force-fp32"],
    "fp16 weights": ["--fp16-unet"],
    "fp8 weights": ["--fp8_e4m3fn-unet"],
    "channels last": ["--force-channels-last"],
    "split attention": ["--use-split-cross-attention"],
    "sub-quadratic attention": ["--use-quad-cross-attention"],
    "PyTorch's attention": ["--use-pytorch-cross-attention"],
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, comfyui: ComfyUI, models: ModelFiles) -> Iterator[Studio]:
    """A studio on a server that was started in one of the ways."""
    linked = {"checkpoints": [models.checkpoint], "animatediff_models": [models.motion_module]}
    arguments = ["--cache-classic", *WAYS[request.param]]
    with ComfyServer(comfyui, models=linked, packs=[PROBE_PACK], extra_args=arguments) as server:
        yield Studio(server, models)


def test_a_guided_step_moves_by_the_literal_gradient(way: Studio) -> None:
    scene = way.scene()
    rep, sigmas = scene.extracted(), scene.falling(SIGMA, SIGMA_NEXT)
    plain = scene.custom(scene.model, sigmas)
    guided = {
        memory: scene.custom(scene.guided(rep, weight=2000.0, memory=memory), sigmas)
        for memory in ("speed", "memory")
    }
    literal = scene.gradient("gradient", rep, SIGMA)
    saves = [scene.save(name, node) for name, node in {"plain": plain, **guided}.items()]
    before, speed, memory, gradient = way.saved(way.run(scene), *saves, literal)
    assert np.array_equal(speed, memory)
    wanted = -SIGMA_NEXT * 2000.0 * SIGMA * gradient
    assert relative_error((speed - before) * SCALE, wanted) < 1e-3
