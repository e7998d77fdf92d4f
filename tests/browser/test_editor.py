"""ComfyUI's graph editor: the shipped workflows open and run in it, and nodes are found, wired and explained."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comfy_server import ComfyServer
from demo_comfyui import Cut
from editor import Editor
from find_comfyui import PACK, ComfyUI

pytestmark = pytest.mark.browser

SCREENSHOTS = PACK / ".test-results" / "browser"
FOLDER = PACK / "example_workflows"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
EVERYDAY = {"clone_motion"}
EACH = [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.more) for name in NAMES]
CUT = Cut(frames=4, side=64, steps=3, guided_steps=2)
TEXTS = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
NODES = sorted((texts["display_name"], kind) for kind, texts in TEXTS.items())


def wires(graph: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Where links lead from and to. (The editor gives widgets sockets too, and counts them.)"""
    nodes = {node["id"]: node for node in graph["nodes"]}
    ends = ((link, nodes[link[3]]["inputs"][link[4]]["name"]) for link in graph["links"])
    return sorted((link[1], link[2], link[3], name, link[5]) for link, name in ends)


def cut_down(page: Editor, stand_ins: dict[str, str]) -> None:
    """The workflow that is open with random weights, at a size that a CPU makes in seconds."""
    sampling = {"preset": "custom", "steps": CUT.steps, "guided_steps": CUT.guided_steps, "warm_up": 1, "cool_down": 1}
    changed = {}
    for number, values in page.widgets().items():
        wanted = {name: sampling.get(name, CUT.of(name, value)) for name, value in values.items()}
        wanted |= {name: stand_ins[value] for name, value in values.items() if str(value) in stand_ins}
        changed[number] = {name: value for name, value in wanted.items() if value != values[name]}
    page.set_widgets(changed)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_when_it_is_dropped(page: Editor, name: str) -> None:
    page.drop(FOLDER / f"{name}.json")
    saved, shown = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), page.graph()
    assert [node["type"] for node in shown["nodes"]] == [node["type"] for node in saved["nodes"]]
    assert wires(shown) == wires(saved)
    assert page.unknown() == []
    assert page.complaints() == []


@pytest.mark.parametrize("name", EACH)
def test_a_workflow_runs_and_shows_what_it_made(page: Editor, stand_ins: dict[str, str], name: str) -> None:
    page.drop(FOLDER / f"{name}.json")
    cut_down(page, stand_ins)
    page.run()
    (saver,) = page.numbers_of("SaveAnimatedWEBP")
    width, height = page.preview_of(saver, seconds=300)
    assert min(width, height) >= 40
    assert page.complaints() == []
    kinds = ("MotionCloneGuidedKSampler", "MotionCloneApplyGuidance")
    (guided,) = (number for kind in kinds for number in page.numbers_of(kind))
    assert "guided steps: 2" in page.text_in(guided)


def test_a_missing_pack_is_named(browser: Editor, comfyui: ComfyUI) -> None:
    with ComfyServer(comfyui, alone=True) as bare, browser.beside(bare) as page:
        page.drop(FOLDER / "image_to_video.json")
        page.page.get_by_text("View details").click()
        for pack in ("comfyui-animatediff-evolved", "comfyui-advanced-controlnet"):
            page.page.get_by_text(pack).first.wait_for(timeout=5000)
        page.shoot(SCREENSHOTS / "a_missing_pack_is_named.png")


@pytest.mark.parametrize(("words", "kind"), NODES, ids=[words for words, _ in NODES])
def test_a_node_is_found_by_its_name(page: Editor, words: str, kind: str) -> None:
    page.search(words)
    assert page.kinds() == [kind]


@pytest.mark.more
def test_every_alias_finds_its_nodes(page: Editor, server: ComfyServer) -> None:
    described = {kind: node for kind, node in server.object_info().items() if kind.startswith("MotionClone")}
    aliases = {alias for node in described.values() for alias in node["search_aliases"]}
    for alias in sorted(aliases):
        wanted = {node["display_name"] for node in described.values() if alias in node["search_aliases"]}
        assert wanted <= set(page.found(alias)), alias


def test_nodes_are_wired_by_hand(page: Editor) -> None:
    first = page.add("MotionCloneLoadMotionRep", 300, 300)
    second = page.add("MotionClonePlaceMotion", 800, 300)
    page.wire(first, 0, second, 0)
    assert [link[1:] for link in page.graph()["links"]] == [[first, 0, second, 0, "MOTION_REP"]]
    third = page.add("CLIPTextEncode", 300, 600)
    page.wire(first, 0, third, 0)  # which takes no motion
    assert len(page.graph()["links"]) == 1


@pytest.mark.parametrize("kind", [kind for _, kind in NODES])
def test_a_help_page_opens(page: Editor, server: ComfyServer, kind: str) -> None:
    page.add(kind, 400, 200)
    text = page.help_of(1)
    assert "When something goes wrong" in text
    described = server.object_info(kind)[kind]["input"]
    for name in (name for group in ("required", "optional") for name in described.get(group, {})):
        assert name in text, name
