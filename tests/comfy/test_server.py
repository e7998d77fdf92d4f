"""The ground the other tests stand on: the server, the packs in it, and how it reports what went wrong."""

from __future__ import annotations

import pytest

from comfy_server import PACK_NAME, ComfyServer, Graph, PromptRejected
from random_models import ModelFiles


def test_every_pack_is_imported(server: ComfyServer) -> None:
    loaded = server.log()
    assert server.failed_imports() == []
    assert PACK_NAME in loaded, "ComfyUI does not list this pack among its custom nodes"


def test_animatediff_evolved_is_there(server: ComfyServer) -> None:
    for name in ("ADE_LoadAnimateDiffModel", "ADE_ApplyAnimateDiffModelSimple", "ADE_UseEvolvedSampling"):
        assert server.object_info(name), f"{name} is missing"


def test_models_come_from_the_base_directory(server: ComfyServer, models: ModelFiles) -> None:
    checkpoints = server.object_info("CheckpointLoaderSimple")["CheckpointLoaderSimple"]
    modules = server.object_info("ADE_LoadAnimateDiffModel")["ADE_LoadAnimateDiffModel"]
    assert models.checkpoint.name in checkpoints["input"]["required"]["ckpt_name"][0]
    assert models.motion_module.name in modules["input"]["required"]["model_name"][0]


def test_a_file_comes_back_whole(server: ComfyServer) -> None:
    graph = Graph()
    clip = graph.add("MotionCloneProbeClip", frames=3, width=16, height=24, seed=1)
    graph.add("MotionCloneProbeSave", name="clip", image=clip)
    result = server.run(graph)
    assert result.ok, result.exception_message
    [file] = result.files()
    content = server.view(file)
    assert b'"shape":[3,24,16,3]' in content
    assert len(content) > 3 * 24 * 16 * 3 * 4


def test_an_exception_is_reported(server: ComfyServer) -> None:
    graph = Graph()
    graph.add("MotionCloneProbeFail", message="7 is not 8")
    result = server.run(graph)
    assert (result.status, result.exception_type) == ("error", "ValueError")
    assert result.node_type == "MotionCloneProbeFail"
    assert "7 is not 8" in result.exception_message
    assert "7 is not 8" in result.log


def test_a_bad_prompt_is_rejected(server: ComfyServer) -> None:
    graph = Graph()
    graph.add("MotionCloneProbeSave", name="x", latent=["99", 0])
    with pytest.raises(PromptRejected):
        server.queue(graph)
    graph = Graph()
    save = graph.add("MotionCloneProbeWait", seconds=-1.0)
    result = server.run(graph)
    assert result.status == "invalid"
    assert save.id in result.node_errors


def test_a_run_can_be_interrupted(server: ComfyServer) -> None:
    start = server.log_size()
    graph = Graph()
    graph.add("MotionCloneProbeWait", seconds=120.0)
    prompt_id = server.queue(graph)
    server.wait_log("probe waits", start=start)
    assert server.running() == [prompt_id]
    server.interrupt()
    result = server.wait(prompt_id, timeout=60)
    assert (result.status, result.node_type) == ("interrupted", "MotionCloneProbeWait")
    assert server.running() == []
