"""The shipped workflows: both forms say the same, fit this ComfyUI, are laid out well, and run."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from comfy_server import ComfyServer, Prompt
from demo_comfyui import Cut, Models, adapt
from draw_clip import draw_inputs
from find_comfyui import PACK, ComfyUI
from random_models import TEXT_TYPES, ModelFiles, has_cogvideox, published_names, published_transformers
from scenes import LORA
from workflow import NOTES, to_prompt

FOLDER = PACK / "example_workflows"
GRAPHS = sorted(FOLDER.glob("*.json"))
NAMES = [graph.stem for graph in GRAPHS]
TITLE_BAR = 30  # pixels above a node's position
CUT = Cut(frames=4, side=64, steps=3, guided_steps=2)

Box = tuple[float, float, float, float]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def graph_form(name: str) -> dict[str, Any]:
    return load(FOLDER / f"{name}.json")


def api_form(name: str) -> Prompt:
    return load(FOLDER / "api" / f"{name}.json")


def inputs_and_classes(prompt: Prompt) -> dict[str, Any]:
    """A prompt without titles, which ComfyUI does not read."""
    return {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}


def box_of(node: dict[str, Any]) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def inside(box: Box, bounds: Box) -> bool:
    return bounds[0] <= box[0] and bounds[1] <= box[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def require_family(name: str, comfyui: ComfyUI) -> None:
    if name == "cogvideox" and not has_cogvideox(comfyui):
        pytest.skip("this ComfyUI has no CogVideoX")


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    return server.object_info()


def test_every_workflow_has_an_api_form_and_a_picture() -> None:
    assert NAMES, "there are no workflows"
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES
    for name in NAMES:  # ComfyUI's list of templates looks for this ending alone
        with Image.open(FOLDER / f"{name}.jpg") as picture:
            assert min(picture.size) >= 500


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_agree(name: str, object_info: dict[str, Any]) -> None:
    converted = to_prompt(graph_form(name), object_info)
    assert inputs_and_classes(converted) == inputs_and_classes(api_form(name))


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_of_one_type(name: str, object_info: dict[str, Any]) -> None:
    graph = graph_form(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, origin, output, target, slot, kind in graph["links"]:
        assert link in nodes[origin]["outputs"][output]["links"]
        entry = nodes[target]["inputs"][slot]
        assert entry["link"] == link and entry["type"] in (kind, "*")
        assert object_info[nodes[origin]["type"]]["output"][output] == kind
    ends = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in graph["links"])


@pytest.mark.parametrize("name", NAMES)
def test_values_are_among_the_choices(name: str, object_info: dict[str, Any], comfyui: ComfyUI) -> None:
    """Drop-downs whose choices are not files of the user's."""
    require_family(name, comfyui)
    files = {"ckpt_name", "model_name", "video", "file", "image", "lora_name", "sparsectrl_name", "control_net_name"}
    files |= {"unet_name", "clip_name", "vae_name"}
    for node in api_form(name).values():
        described = object_info[node["class_type"]]["input"]
        for key, value in node["inputs"].items():
            spec = described.get("required", {}).get(key) or described["optional"][key]
            choices = spec[0] if isinstance(spec[0], list) else (spec[1:] or [{}])[0].get("options")
            if choices and key not in files and not isinstance(value, list):
                assert value in choices, f"{node['class_type']}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_and_groups_hold_whole_nodes(name: str) -> None:
    graph = graph_form(name)
    boxes = [box_of(node) for node in graph["nodes"]]
    for index, box in enumerate(boxes):
        assert all(apart(box, other) for other in boxes[index + 1 :])
    for group in graph["groups"]:
        x, y, width, height = group["bounding"]
        bounds = (x, y, x + width, y + height)
        assert any(inside(box, bounds) for box in boxes), f"{group['title']} is empty"
        assert all(inside(box, bounds) or apart(box, bounds) for box in boxes), group["title"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_from_left_to_right(name: str) -> None:
    """A node never stands to the left of one that feeds it."""
    graph = graph_form(name)
    left = {node["id"]: node["pos"][0] for node in graph["nodes"]}
    assert all(left[origin] <= left[target] for _, origin, _, target, *_ in graph["links"])


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_name_every_model(name: str) -> None:
    graph = graph_form(name)
    notes = "".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] in NOTES)
    models = [model for node in graph["nodes"] for model in node["properties"].get("models", [])]
    assert models
    for model in models:
        assert model["name"] in notes
        assert model["directory"] in notes


@pytest.fixture(scope="module")
def inputs(server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the workflows load."""
    for file in draw_inputs(tmp_path_factory.mktemp("inputs"), size=(96, 64)):
        server.add_input(file)


# Where it is not four frames of 64 x 64, of which the reference is the two seconds asked for: 16 frames at 8 fps.
MADE = {
    "long_video": (16, (64, 64), 23 / 8 / 15),
    "other_shape": (6, (56, 96), 15 / 8 / 3),
    # All three seconds of the reference, in 4 n + 1 frames.
    "cogvideox": (13, (64, 88), 23 / 8 / 12),
    "wan": (21, (64, 104), 23 / 8 / 20),
    "wan22": (21, (64, 104), 23 / 8 / 20),
}


EVERYDAY = {"clone_motion", "mixed_motions", "wan22"}
EACH = [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.more) for name in NAMES]


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("name", EACH)
def test_the_workflow_makes_an_animation(
    name: str, server: ComfyServer, models: ModelFiles, comfyui: ComfyUI
) -> None:
    require_family(name, comfyui)
    stand_ins = Models(models.checkpoint, models.motion_module, random=True)
    kinds = published_names(models) | published_transformers(comfyui)
    names = {n: file.name for folder in kinds.values() for n, file in folder.items()}
    names |= {"v3_sd15_adapter.ckpt": LORA, **TEXT_TYPES}
    frames, size, seconds = MADE.get(name, (CUT.frames, (CUT.side, CUT.side), 15 / 8 / 3))
    prompt = adapt(api_form(name), stand_ins, "reference.mp4", CUT, others=names)
    result = server.run(prompt, timeout=400)
    assert result.ok, result.exception_message or result.node_errors
    [file] = [file for file in result.files() if file["type"] == "output"]
    with Image.open(io.BytesIO(server.view(file))) as animation:
        pictures = [np.asarray(frame.convert("RGB"), float) for frame in ImageSequence.Iterator(animation)]
        duration = animation.info["duration"]
    assert [picture.shape for picture in pictures] == [(*size, 3)] * frames
    assert all(picture.std() > 5 for picture in pictures), "a frame is of one colour"
    assert all(np.abs(a - b).mean() > 1 for a, b in pairwise(pictures)), "it stands still"
    assert duration == pytest.approx(1000 * seconds, abs=1)
    assert "motion guidance: guided steps: 2" in result.log
