"""What ComfyUI tells of the nodes, and the help and the texts that it serves for them."""

from __future__ import annotations

import urllib.error
from typing import Any

import pytest

from comfy_server import ComfyServer
from help_pages import LANGUAGES, Page, pages_in, path_of
from node_locales import CATEGORY, node_definitions, read_definitions


@pytest.fixture(scope="module")
def described(server: ComfyServer) -> dict[str, Any]:
    """``/object_info`` of this pack's nodes."""
    found = {name: info for name, info in server.object_info().items() if info["category"] == CATEGORY}
    assert len(found) >= 12
    return found


def inputs_of(info: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of every input, by name."""
    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return {name: (rest[0] if rest else {}) for group in groups for name, (_, *rest) in group.items()}


def test_every_input_and_output_has_a_tooltip(described: dict[str, Any]) -> None:
    bare = []
    for node, info in described.items():
        bare += [f"{node}.{name}" for name, options in inputs_of(info).items() if not options.get("tooltip")]
        tooltips = info.get("output_tooltips") or [None] * len(info["output"])
        bare += [f"{node} -> {name}" for name, text in zip(info["output_name"], tooltips, strict=True) if not text]
    assert bare == []


def test_every_node_says_what_it_does(described: dict[str, Any]) -> None:
    assert [node for node, info in described.items() if not info["description"]] == []


def test_every_node_is_found_by_the_name_of_the_method(described: dict[str, Any]) -> None:
    if not any("search_aliases" in info for info in described.values()):
        pytest.skip("this ComfyUI knows no search aliases")
    for node, info in described.items():
        aliases = info["search_aliases"]
        assert {"motion clone", "motionclone"} < set(aliases), node
        assert len(set(aliases)) == len(aliases), node


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_has_the_sockets_of_its_node(described: dict[str, Any], language: str) -> None:
    pages: dict[str, Page] = pages_in(language)
    assert set(described) - set(pages) == set()
    for node, info in described.items():
        assert pages[node].inputs == list(inputs_of(info)), node
        assert pages[node].outputs == list(info["output_name"]), node


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_are_served_where_the_editor_looks(
    server: ComfyServer, described: dict[str, Any], language: str
) -> None:
    for node, info in described.items():
        folder = info["python_module"].split(".")[1]
        page = path_of(node, language)
        address = f"/extensions/{folder}/docs/{page.name if language == 'en' else f'{node}/{page.name}'}"
        assert fetched(server, address) == page.read_bytes(), address


def fetched(server: ComfyServer, address: str) -> bytes:
    try:
        return server.fetch(address)
    except urllib.error.HTTPError as error:
        pytest.fail(f"{address}: {error}")


def test_the_english_texts_are_the_schemas(described: dict[str, Any]) -> None:
    """`scripts/node_locales.py` writes them anew."""
    assert node_definitions(described) == read_definitions("en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_texts_are_handed_to_the_editor(
    server: ComfyServer, described: dict[str, Any], language: str
) -> None:
    handed = server.get("/i18n")[language]["nodeDefs"]
    assert {node: handed[node] for node in described} == read_definitions(language)
