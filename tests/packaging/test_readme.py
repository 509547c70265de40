"""README and MESSAGES name what exists: every node with an image, every error, every setting recommended."""

import re

from .pack import PACK, SCHEMAS, errors

README = (PACK / "README.md").read_text(encoding="utf-8")
MESSAGES = (PACK / "docs" / "MESSAGES.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    assert f"\n## {heading}\n" in README
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_every_node_is_in_the_table_with_its_page_and_an_image():
    for node, schema in SCHEMAS.items():
        assert f"**[{schema['display_name']}](web/docs/{node}.md)**" in README
        assert f'<img src="web/docs/{node}.png"' in README


def test_every_error_of_a_node_is_explained():
    assert len(errors()) > 8
    assert [error for error in errors() if f"`{error}" not in MESSAGES] == []


def test_the_settings_that_it_recommends_exist():
    inputs = {each["id"]: each for schema in SCHEMAS.values() for each in schema["inputs"]}
    options = {option for each in inputs.values() for option in each.get("options", ())}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", section("Which setting for which problem")))
    assert len(named) > 8
    assert named <= inputs.keys() | options


def test_links_and_images_exist():
    targets = re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', README)
    local = {a or b for a, b in targets if not (a or b).startswith("http")}
    assert len(local) > 15
    assert [target for target in local if not (PACK / target).exists()] == []


def test_images_are_light():
    images = [
        path for place in ("web/docs", "docs/images", "workflows") for path in (PACK / place).glob("*.[jp][pn]g")
    ]
    assert len(images) > 20
    assert [path.name for path in images if path.stat().st_size > 100_000] == []
