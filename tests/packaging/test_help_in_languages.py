"""Help pages in every language of the pack, where the host looks for them, with the names that the nodes show."""

import re

import pytest

from .helps import HEADINGS, lists, place, with_lists
from .messages import INACTIVE, shown
from .pack import DOCS, LANGUAGES, SCHEMAS, locale, section

NODES = sorted(SCHEMAS)
TRANSLATED = [language for language in LANGUAGES if language != "en"]
PAGES = [(language, node) for language in TRANSLATED for node in NODES]
OURS = re.compile(r"(?<!\*)\*(S-CFG [^*]+)\*(?!\*)")
REPORT = ("S-CFG active: …", "S-CFG observing: …", "S-CFG observing: …, guidance unchanged", "S-CFG inactive: …")

in_every_language = pytest.mark.parametrize(("language", "node"), PAGES)


def english(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def page(language: str, node: str) -> str:
    return place(language, node).read_text(encoding="utf-8")


def test_there_is_a_page_of_every_node_in_every_language_and_no_other():
    found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("*/*"))
    assert found == sorted(f"{node}/{language}.md" for node in NODES for language in LANGUAGES)
    assert sorted(HEADINGS) == sorted(TRANSLATED)


@pytest.mark.parametrize("node", NODES)
def test_the_page_for_english_is_the_one_for_languages_without_any(node):
    assert page("en", node) == english(node), "run python -m tests.packaging.helps"


@in_every_language
def test_a_page_has_the_name_and_the_inputs_that_the_node_shows(language, node):
    text = page(language, node)
    assert text.startswith(f"# {locale(language, 'nodeDefs')[node]['display_name']}\n")
    assert with_lists(text, language, node) == text, "run python -m tests.packaging.helps"
    for heading, items in zip(HEADINGS[language], lists(language, node), strict=False):
        assert section(text, heading) == items if items else section(text, heading)


@in_every_language
def test_a_page_has_every_section_and_the_image_of_the_english_one(language, node):
    text = page(language, node)
    found = [heading for heading in re.findall(r"^## (.+)$", text, re.M) if heading in HEADINGS[language]]
    assert tuple(found) == HEADINGS[language]
    assert all(section(text, heading) for heading in found)
    assert re.findall(r"\]\(([^)]+)\)", text) == re.findall(r"\]\(([^)]+)\)", english(node))


@in_every_language
def test_a_page_calls_nodes_and_inputs_as_that_language_does(language, node):
    text, defs = page(language, node), locale(language, "nodeDefs")
    titles = {entry["display_name"] for entry in defs.values()}
    assert set(OURS.findall(text)) <= titles | set(REPORT)
    names = {
        each["name"]
        for entry in defs.values()
        for kind in ("inputs", "outputs")
        for each in entry.get(kind, {}).values()
    }
    prose = re.sub(r"^- \*\*.*$", "", text, flags=re.M)
    assert set(re.findall(r"\*\*([^*]+)\*\*", prose)) <= names


@in_every_language
def test_a_page_is_a_translation_with_the_same_examples(language, node):
    text, original = page(language, node), english(node)
    assert set(re.findall(r"`([^`]+)`", text)) <= set(re.findall(r"`([^`]+)`", original))
    sentences = {
        line for line in original.splitlines() if len(line) > 40 and not line.startswith(("!", "`", "- **"))
    }
    assert sentences.isdisjoint(text.splitlines())
    assert len(text) > 300


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_reason_for_an_inactive_run_is_explained(language):
    text = page(language, "SCFGGuidance")
    explained = dict(re.findall(r"^- `([^`]+)` — (.+)$", text, re.M))
    assert list(explained) == [shown(note) for note in INACTIVE]
    assert len(set(explained.values())) == len(INACTIVE)
