"""What guided steps cost: memory modes that change nothing but memory, and gradients that steps share."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_gradient import ALONE
from test_usable import SETTINGS, WIDE, Setting, bare

from comfy_server import Node
from scenes import Scene, Studio

RECORDED = re.compile(r"probe saw (\d+) transformers recorded, (\d+) of them again")


def drawn(scene: Scene, setting: Setting, memory: str, kind: str, **changes: object) -> Node:
    """One guided step and an unguided one."""
    model = scene.graph.add("MotionCloneProbeMemory", model=setting.model, kind=kind, layer=3)
    model = scene.guided(scene.extracted(), model=model, memory=memory, **changes)
    return scene.custom(model, scene.falling(14.0, 11.0, 8.0), **setting.sampling)


def hyper_tile(scene: Scene) -> Setting:
    """A patch inside transformers that remembers something from one call to the next."""
    tiles = {"tile_size": 32, "swap_size": 1, "max_depth": 0, "scale_depth": False}
    return Setting(scene.graph.add("HyperTile", model=scene.model, **tiles), {})


BESIDE = {setting.__name__.strip("_"): setting for setting in (*SETTINGS, *WIDE, bare, hyper_tile)}


def assert_alike(studio: Studio, name: str, width: int) -> None:
    """Saving memory beside a node changes no bit of a run, and runs its recorded transformers twice."""
    scene = studio.scene(fresh=True, width=width)
    made = BESIDE[name](scene)
    nodes = [scene.save(mode, drawn(scene, made, mode, "ample")) for mode in ("speed", "memory")]
    result = studio.run(scene)
    speed, memory = studio.saved(result, *nodes)
    assert np.array_equal(speed, memory)
    # ComfyUI decides which of the two runs first.
    seen = sorted(tuple(map(int, found)) for found in RECORDED.findall(result.log))
    # Where patches act inside transformers, their feed-forward parts alone are run again.
    assert seen[0][0] > 5 and seen == [(seen[0][0], 0), (seen[0][0], 0 if name == "hyper_tile" else seen[0][0])]


def test_saving_memory_changes_nothing(studio: Studio) -> None:
    assert_alike(studio, "bare", width=64)


@pytest.mark.parametrize("kind", [pytest.param("short", marks=pytest.mark.more), "exhausted"])
def test_auto_falls_back_when_memory_runs_short_says_so_once_and_carries_on(studio: Studio, kind: str) -> None:
    scene = studio.scene(fresh=True)
    made = Setting(scene.model, ALONE)
    nodes = [
        scene.save("plain", drawn(scene, made, "speed", "ample", guided_steps=2)),
        scene.save("auto", drawn(scene, made, "auto", kind, guided_steps=2)),
    ]
    result = studio.run(scene)
    plain, auto = studio.saved(result, *nodes)
    assert np.array_equal(plain, auto)
    assert result.log.count("guided steps save memory from here on") == 1
    assert re.search(r"guided steps: 2, .*memory: memory", result.log)
    # What the call had kept that ran out is gone when it is made again.
    first, *later = map(int, re.findall(r"probe starts beside (\d+) tensors with a graph", result.log))
    assert later and set(later) == {first}


def test_auto_keeps_everything_where_there_is_room(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    scene.save("auto", drawn(scene, Setting(scene.model, ALONE), "auto", "ample"))
    result = studio.run(scene)
    assert "save memory" not in result.log and "memory: speed" in result.log


def test_without_auto_memory_that_runs_out_ends_the_run(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    scene.save("speed", drawn(scene, bare(scene), "speed", "exhausted"))
    result = studio.server.run(scene.graph, timeout=400)
    assert result.status == "error" and "memory" in result.exception_message


def test_steps_that_share_a_gradient_push_along_it(studio: Studio) -> None:
    scene = studio.scene()
    rep, sigmas = scene.extracted(), scene.falling(14.0, 11.0, 8.0)
    literal = scene.gradient("gradient", rep, 14.0)
    one = scene.custom(scene.guided(rep, guided_steps=1, reuse=2), sigmas, **ALONE)
    two = scene.custom(scene.guided(rep, guided_steps=2, reuse=2), sigmas, **ALONE)
    own = scene.custom(scene.guided(rep, guided_steps=2), sigmas, **ALONE)
    nodes = [scene.save(name, node) for name, node in (("one", one), ("two", two), ("own", own))]
    gradient, once, twice, apart = studio.saved(studio.run(scene), literal, *nodes)
    # Both begin the second step at one latent. METHOD: the push is -sigma_next * weight * sigma * gradient by x,
    # and the gradient that is shared is the one by z = x / sqrt(1 + sigma^2).
    shared = gradient * np.sqrt((1 + 14.0**2) / (1 + 11.0**2))
    wanted = -8.0 * 500.0 * 11.0 * shared
    moved = (twice - once) * 0.18215
    assert np.linalg.norm(moved - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert not np.array_equal(twice, apart)


def test_the_guided_ksampler_reports_what_it_did(studio: Studio) -> None:
    scene = studio.scene(fresh=True)
    sampled = scene.guided_ksampler(scene.extracted(), steps=2, guided_steps=1)
    shown = scene.graph.add("PreviewAny", source=sampled[1])
    (text,) = studio.run(scene).output(shown)["text"]
    told = r"guided steps: 1, energy: [\d.e-]+ -> [\d.e-]+, memory: speed, model: AnimateDiff on SD1\.5, .*"
    assert re.fullmatch(told, text)
