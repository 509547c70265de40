"""Every text of the nodes and settings is there in every language, in the front end's own format."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .pack import LANGUAGES, PACK, SCHEMAS, locale, settings

FILES = ("main", "nodeDefs", "settings")
TRANSLATED = [language for language in LANGUAGES if language != "en"]
SAME_EVERYWHERE = {"S-CFG", "clip", "vae", "CLIP", "VAE"}
SAME_IN_FRENCH = {"image", "latent", "mode", "trace", "S-CFG Attention", "S-CFG Segmentation"}
QUOTED = re.compile("[「«„“]([^」»“”]+)[」»“”]")


def texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, (*path, key))
    else:
        yield path, value


def described() -> dict[str, Any]:
    """The English texts as the schemas have them, in the form of nodeDefs.json."""
    result: dict[str, Any] = {}
    for node, schema in SCHEMAS.items():
        entry: dict[str, Any] = {"display_name": schema["display_name"], "description": schema["description"]}
        if schema["inputs"]:
            entry["inputs"] = {
                each["id"]: {"name": each["id"], "tooltip": each["tooltip"]} for each in schema["inputs"]
            }
        entry["outputs"] = {
            str(index): {"name": each["name"], "tooltip": each["tooltip"]}
            for index, each in enumerate(schema["outputs"])
        }
        result[node] = entry
    return result


def test_every_node_input_and_output_says_what_it_is():
    assert [path for path, text in texts(described()) if not text] == []


def test_english_is_what_the_nodes_and_settings_say_themselves():
    assert locale("en", "nodeDefs") == described()
    said = {
        name.replace(".", "_"): {"name": each["name"], "tooltip": each["tooltip"]}
        for name, each in settings().items()
    }
    assert said and locale("en", "settings") == said


def test_the_headings_of_the_settings_and_the_types_of_the_slots_have_names():
    main = locale("en", "main")
    headings = {heading for each in settings().values() for heading in each["category"][:2]}
    assert headings <= main["settingsCategories"].keys()
    types = {each["type"] for schema in SCHEMAS.values() for each in (*schema["inputs"], *schema["outputs"])}
    assert {kind for kind in types if kind.startswith("SCFG")} == main["dataTypes"].keys()
    assert {schema["category"] for schema in SCHEMAS.values()} == main["nodeCategories"].keys()


def test_there_are_exactly_these_languages():
    assert sorted(path.name for path in (PACK / "locales").iterdir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", TRANSLATED)
def test_a_language_has_every_text_and_no_other(language, name):
    ours, english = dict(texts(locale(language, name))), dict(texts(locale("en", name)))
    assert ours.keys() == english.keys()
    assert [path for path, text in ours.items() if not text.strip()] == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated(language, name):
    ours, english = dict(texts(locale(language, name))), dict(texts(locale("en", name)))
    left = {text for path, text in ours.items() if text == english[path]}
    assert left - SAME_EVERYWHERE - (SAME_IN_FRENCH if language == "fr" else set()) == set()


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_node_or_input_that_a_text_names_is_called_so_there(language):
    ours = locale(language, "nodeDefs")
    names = {entry["display_name"] for entry in ours.values()}
    names |= {each["name"] for entry in ours.values() for each in entry.get("inputs", {}).values()}
    options = {
        option for schema in SCHEMAS.values() for each in schema["inputs"] for option in each.get("options", ())
    }
    known = names | options | {"a red boat on water"}
    quoted = [QUOTED.findall(text) for name in FILES for _, text in texts(locale(language, name))]
    named = {name.strip() for found in quoted for name in found}
    assert len(named) >= 8
    assert named - known == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_a_sign_that_the_front_end_would_read_as_markup(language):
    """vue-i18n reads {…} as a value, @ as a link to another text, and a bar between spaces as a plural."""
    found = [path for name in FILES for path, text in texts(locale(language, name)) if set(text) & set("{}@|<>")]
    assert found == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_the_options_that_a_tooltip_explains_keep_their_names(language):
    """The front end shows the options of a list as they are."""
    ours = locale(language, "nodeDefs")
    for node, schema in SCHEMAS.items():
        for each in schema["inputs"]:
            named = [option for option in each.get("options", ()) if f"{option}:" in each["tooltip"]]
            assert all(option in ours[node]["inputs"][each["id"]]["tooltip"] for option in named), each["id"]
