"""Every node has a help page in both languages that says what the schemas, the code and the measurements say."""

from __future__ import annotations

import re

import pytest

from help_pages import LANGUAGES, PAGES, ROOT, Page, is_spoken, pages_in, spoken_texts
from motionclone_core.schedule import PRESETS
from node_locales import read_definitions

DEFINITIONS = read_definitions("en")
READ = {language: pages_in(language) for language in LANGUAGES}
CASES = [(language, node) for language in LANGUAGES for node in DEFINITIONS]
ALL = [(language, node) for language in LANGUAGES for node in READ[language]]
KIB = 1024


def page(language: str, node: str) -> Page:
    return READ[language][node]


@pytest.mark.parametrize(("language", "node"), CASES)
def test_a_page_lists_the_sockets_of_the_schema(language, node):
    definition, shown = DEFINITIONS[node], page(language, node)
    assert shown.inputs == [name for name, input_ in definition["inputs"].items() if "tooltip" in input_]
    assert shown.outputs == [output["name"] for output in definition["outputs"].values()]


def test_both_languages_have_the_same_pages():
    assert set(READ["en"]) == set(READ["zh"]) >= set(DEFINITIONS)


@pytest.mark.parametrize("node", READ["en"])
def test_both_languages_say_the_same(node):
    english, chinese = page("en", node), page("zh", node)
    for one in ("inputs", "outputs", "messages", "pictures"):
        assert getattr(english, one) == getattr(chinese, one)
    assert [len(rows) for rows in english.sections] == [len(rows) for rows in chinese.sections]
    assert re.findall(r"```.*?```", english.text, re.DOTALL) != []


@pytest.mark.parametrize(("language", "node"), ALL)
def test_messages_are_those_of_the_code(language, node):
    texts = spoken_texts()
    assert [message for message in page(language, node).messages if not is_spoken(message, texts)] == []


def test_a_message_that_nobody_says_is_found():
    texts = ["k is …, but the reference has … frames: choose k from 1 to …"]
    assert is_spoken("k is …, but the reference has … frames", texts)
    assert not is_spoken("k is …, but the video has … frames", texts)


@pytest.mark.parametrize(("language", "node"), ALL)
def test_links_work_where_the_page_is_shown(language, node):
    """A relative link would lead into ComfyUI's own pages; pictures alone are looked for beside the pages."""
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", page(language, node).text)
    assert [link for link in links if not link.startswith("https://")] == []


def test_pictures_are_there_and_small():
    used = {picture for pages in READ.values() for one in pages.values() for picture in one.pictures}
    files = {file.relative_to(PAGES).as_posix(): file.stat().st_size for file in (PAGES / "pictures").iterdir()}
    assert used == set(files)
    assert max(files.values()) < 150 * KIB and sum(files.values()) < 1500 * KIB


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_of_presets(language):
    text = page(language, "MotionCloneGuidedKSampler").text
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| (\d+ \| \d+) \|", text, re.MULTILINE))
    assert rows == {name: f"{preset.steps} | {preset.guided_steps}" for name, preset in PRESETS.items()}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", ["MotionCloneApplyGuidance", "MotionCloneGuidedKSampler"])
def test_memory_is_as_measured(language, node):
    measured = (ROOT / "docs" / "PERFORMANCE.md").read_text(encoding="utf-8")
    rows = [[entry.strip() for entry in line.strip("|").split("|")] for line in measured.splitlines()]
    whole = {row[1]: float(row[-1]) for row in rows if row[0] == "16 frames of 512 x 512, by a straight line"}
    said = re.findall(r"([\d.]+) GiB", page(language, node).text)
    assert said == [f"{whole['speed']:.1f}", f"{whole['memory']:.1f}"]
