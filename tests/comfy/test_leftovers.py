"""Nothing of a guided run is left: not after it has ended, not after a cancel, not after a failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scenes import STEPS, Array, Scene, Studio, only

# What exists only while a model call or a run is under way. Guides and representations live in ComfyUI's cache.
OF_A_RUN = {"_Run", "_Step", "ConstantWeights", "EnergyGradient", "Gradient", "RepresentationBuilder", "WindowReader",
            "AppearanceBranch", "AppearanceReader", "Appearance"}


def unguided(studio: Studio) -> tuple[Array, dict[str, Any]]:
    """An unguided step, sampled now, and the state it finds."""
    scene = studio.scene(fresh=True)
    latent = scene.ksampler(scene.model, steps=1)
    saved, state = scene.save("unguided", latent), scene.state(latent)
    result = studio.run(scene)
    return studio.saved(result, saved)[0], only(result, state, "state")


def lasting(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a state that must be the same before and after."""
    passing = ("objects_of_ours", "uncollected")
    return {key: value for key, value in state.items() if key not in passing}


def assert_clean(state: dict[str, Any]) -> None:
    assert state["tapped"] == []
    assert [key for key in state["wrapper_keys"] if "motionclone" in key.lower()] == []
    assert [key for key in state["transformer_options"] if "motionclone" in key.lower()] == []
    assert (state["hooked"], state["foreign_forwards"], state["function_modes"]) == (0, 0, 0)
    assert (state["tensors_with_graph"], state["tensors_requiring_grad"]) == (0, 0)
    assert OF_A_RUN.intersection(state["objects_of_ours"]) == set()
    assert state["group_norms"] == ["torch.nn.modules.normalization", "comfy.ops"]
    # As ComfyUI runs its nodes.
    assert (state["inference_mode"], state["grad_mode"]) == (True, False)


@pytest.fixture(scope="module")
def before(studio: Studio) -> tuple[Array, dict[str, Any]]:
    return unguided(studio)


def assert_as_before(studio: Studio, before: tuple[Array, dict[str, Any]]) -> None:
    latent, state = unguided(studio)
    assert np.array_equal(latent, before[0])
    assert lasting(state) == lasting(before[1])
    assert_clean(state)


def guided_scene(studio: Studio, *, memory: str = "speed", **trouble: Any) -> tuple[Scene, Any]:
    scene = studio.scene(fresh=True)
    model = scene.model
    if trouble:
        given = {"model": model, "nonce": scene.nonce, **trouble}
        model = scene.graph.add("MotionCloneProbeTrouble", **given)
    guided = scene.guided(scene.extracted(), model=model, guided_steps=STEPS, memory=memory)
    return scene, scene.ksampler(guided)


def test_nothing_is_left_after_a_guided_run(studio: Studio, before: tuple[Array, dict]) -> None:
    scene, latent = guided_scene(studio)
    state = scene.state(latent)
    left = only(studio.run(scene), state, "state")
    assert_clean(left)
    assert lasting(left) == lasting(before[1])
    assert left["uncollected"]["tensors_with_graph"] == 0, (
        "a run that succeeds leaves no work to the collector"
    )
    assert_as_before(studio, before)


def test_the_probe_sees_what_is_there(studio: Studio) -> None:
    """Without this the tests above could pass because the probe looks in the wrong place."""
    scene = studio.scene(fresh=True)
    guided = scene.guided(scene.extracted())
    state = scene.graph.add("MotionCloneProbeState", model=guided, nonce=scene.nonce)
    seen = only(studio.run(scene), state, "state")
    assert any("motionclone" in key for key in seen["wrapper_keys"])
    assert "MotionGuidance" in seen["objects_of_ours"]
    assert any("ADE" in key for key in seen["wrapper_keys"])


# In a run of guided steps each block is reached twice a step: first in the conditional pass, which is recorded
# up to the temporal attention of output blocks 3 to 5, then in the unconditional one.
@pytest.mark.parametrize(
    ("block", "call"),
    [
        pytest.param("input 4", 1, id="before the taps"),
        pytest.param("output 5", 1, id="between the taps", marks=pytest.mark.more),
        pytest.param("output 9", 1, id="after the taps", marks=pytest.mark.more),
        pytest.param("input 4", 2, id="unconditional pass", marks=pytest.mark.more),
        pytest.param("input 4", 3, id="second step"),
    ],
)
def test_a_failed_run_leaves_nothing(
    studio: Studio, before: tuple[Array, dict], block: str, call: int
) -> None:
    scene, latent = guided_scene(studio, kind="raise", block=block, call=call)
    scene.save("never", latent)
    result = studio.server.run(scene.graph)
    assert (result.status, result.node_type) == ("error", "KSampler")
    assert "the probe's own trouble" in result.exception_message
    assert_as_before(studio, before)


@pytest.mark.parametrize("node", ["MotionCloneExtract", "MotionCloneInvert"])
def test_a_failed_reading_leaves_nothing(studio: Studio, before: tuple[Array, dict], node: str) -> None:
    scene = studio.scene(fresh=True)
    given = {"model": scene.model, "nonce": scene.nonce, "kind": "raise", "block": "input 4", "call": 1}
    model = scene.graph.add("MotionCloneProbeTrouble", **given)
    read = {"model": model}
    if node == "MotionCloneInvert":
        # An inversion that is kept already would not be computed.
        given = {"conditioning": scene.text("inverted nowhere else"), "steps": 3, "latent": scene.encoded}
        read["inversion"] = scene.graph.add(node, model=model, **given)
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(**read))
    result = studio.server.run(scene.graph)
    assert (result.status, result.node_type) == ("error", node)
    assert_as_before(studio, before)


def test_a_refused_extraction_is_collected_in_the_midst_of_a_later_run(studio: Studio) -> None:
    """ComfyUI takes a clone's modules out of the network when the clone is collected."""

    def sampled_while_collecting() -> Array:
        scene = studio.scene(fresh=True)
        given = {"model": scene.model, "nonce": scene.nonce, "kind": "collect", "block": "input 4", "call": 1}
        saved = scene.save("later", scene.ksampler(scene.graph.add("MotionCloneProbeTrouble", **given), steps=1))
        return studio.saved(studio.run(scene), saved)[0]

    expected = sampled_while_collecting()
    # The MODEL that is cloned has its modules in the network.
    unguided(studio)
    scene = studio.scene(fresh=True)
    unfit = scene.controlled(scene.positive, scene.sparse(scene.frames), scene.hints(scene.pictures(1)))
    scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(conditioning=unfit))
    result = studio.server.run(scene.graph)
    assert (result.status, result.node_type) == ("error", "MotionCloneExtract")
    assert np.array_equal(sampled_while_collecting(), expected)


@pytest.mark.parametrize(
    "guided", [pytest.param(False, id="extraction"), pytest.param(True, id="guided run", marks=pytest.mark.more)]
)
def test_what_a_failed_run_of_others_has_left_is_collected_before(studio: Studio, guided: bool) -> None:
    """A clone by another pack that is collected in the midst of a run would take the modules out of the network."""

    def ran(*, littered: bool) -> tuple[Any, str]:
        scene = studio.scene(fresh=True)
        model = scene.guided(scene.extracted(), guided_steps=1) if guided else scene.model
        if littered:
            model = scene.graph.add("MotionCloneProbeLitter", model=model, after=scene.ksampler(model, steps=1))
        given = {"nonce": scene.nonce, "kind": "collect", "block": "input 4", "call": 1}
        model = scene.graph.add("MotionCloneProbeTrouble", model=model, **given)
        if guided:
            saved = scene.save("after", scene.ksampler(model, steps=2))
            result = studio.run(scene)
            return studio.saved(result, saved)[0].tolist(), result.log
        seen = scene.graph.add("MotionCloneProbeRep", motion_rep=scene.extracted(model=model))
        result = studio.run(scene)
        return only(result, seen, "rep")["checksum"], result.log

    expected, _ = ran(littered=False)
    found, log = ran(littered=True)
    assert "probe left a clone that is in the network" in log
    assert found == expected


def test_a_run_that_saves_memory_and_still_runs_out_of_it_leaves_nothing(
    studio: Studio, before: tuple[Array, dict]
) -> None:
    scene, latent = guided_scene(studio, memory="memory", kind="exhaust", block="output 5", call=1)
    scene.save("never", latent)
    result = studio.server.run(scene.graph)
    assert (result.status, result.node_type) == ("error", "KSampler")
    assert "the probe's memory is used up" in result.exception_message
    assert_as_before(studio, before)


@pytest.mark.more
@pytest.mark.parametrize(("block", "call"), [("input 4", 1), ("output 5", 3)])
def test_a_cancel_ends_the_guided_step_it_comes_in(
    studio: Studio, before: tuple[Array, dict], block: str, call: int
) -> None:
    scene, latent = guided_scene(studio, kind="interrupt", block=block, call=call)
    scene.save("never", latent)
    result = studio.server.run(scene.graph)
    assert (result.status, result.node_type) == ("interrupted", "KSampler")
    # The next tap ends it: no block after it, let alone the unconditional pass, is run.
    last = 3 if block == "input 4" else 5
    reached = [line.split()[3:5] for line in result.log.splitlines() if "probe reached" in line]
    assert all(kind == "input" or int(number) <= last for kind, number in reached)
    assert_as_before(studio, before)


def test_a_cancel_over_http_leaves_nothing(studio: Studio, before: tuple[Array, dict]) -> None:
    scene, latent = guided_scene(studio)
    scene.save("never", latent)
    start = studio.server.log_size()
    prompt_id = studio.server.queue(scene.graph)
    studio.server.wait_log(rf"0/{STEPS} ", start=start)
    studio.server.interrupt()
    result = studio.server.wait(prompt_id)
    assert (result.status, result.node_type) == ("interrupted", "KSampler")
    assert f"1/{STEPS} " not in result.log, "the cancel came too late to be in the middle of the first step"
    assert_as_before(studio, before)
