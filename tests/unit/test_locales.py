"""The texts that ComfyUI's editor shows in place of the schemas'."""

from __future__ import annotations

import json
import re

import pytest

from node_locales import LOCALES, leaves, node_definitions, read_definitions

LANGUAGES = ("en", "zh")
FILES = ("main.json", "nodeDefs.json")


def texts_of(language, file):
    return dict(leaves(json.loads((LOCALES / language / file).read_text(encoding="utf-8"))))


@pytest.mark.parametrize("file", FILES)
def test_both_languages_have_the_same_keys(file):
    assert list(texts_of("en", file)) == list(texts_of("zh", file))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", FILES)
def test_no_text_is_empty(file, language):
    assert [path for path, text in texts_of(language, file).items() if not text.strip()] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_in_a_text_is_read_as_a_placeholder(language):
    """The editor's library of languages reads braces, bars and at signs as its own."""
    assert [path for path, text in texts_of(language, "nodeDefs.json").items() if re.search(r"[{}|@]", text)] == []


def test_the_chinese_texts_are_chinese():
    """Names may be letters alone, such as cfg; what explains them may not."""
    explained = {path: text for path, text in texts_of("zh", "nodeDefs.json").items() if path[-1] != "name"}
    assert [path for path, text in explained.items() if not re.search(r"[\u4e00-\u9fff]", text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_what_the_editor_adds_has_no_tooltip(language):
    definitions = read_definitions(language).values()
    bare = {name for one in definitions for name, input_ in one["inputs"].items() if "tooltip" not in input_}
    assert bare == {"control_after_generate"}


def test_definitions_follow_the_schemas():
    info = {
        "display_name": "A Node",
        "description": "Does it.",
        "category": "MotionClone",
        "input": {
            "required": {"seed": ["INT", {"tooltip": "Of noise.", "control_after_generate": True}]},
            "optional": {"way": [["a", "b"], {"display_name": "the way"}]},
        },
        "output_name": ["LATENT", "report"],
        "output_tooltips": ["The video."],
    }
    assert node_definitions({"A": info, "B": {**info, "category": "image"}}) == {
        "A": {
            "display_name": "A Node",
            "description": "Does it.",
            "inputs": {
                "seed": {"name": "seed", "tooltip": "Of noise."},
                "control_after_generate": {"name": "control after generate"},
                "way": {"name": "the way", "tooltip": ""},
            },
            "outputs": {"0": {"name": "LATENT", "tooltip": "The video."}, "1": {"name": "report", "tooltip": ""}},
        }
    }
