"""What a voter does with the page, in a browser and from files alone."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.preference.build import build_page
from evaluation.preference.result import count_votes

from .experiment import ARMS, PAIRS, SCALE, B, pairs_of


@pytest.fixture(scope="module")
def browser():
    for package in ("playwright", "aiohttp"):  # the second is imported by tests/web
        if find_spec(package) is None:
            pytest.skip(f"preference page in a browser: no {package} in this Python")
    from playwright.sync_api import sync_playwright

    from ...web.page import FLAGS, executable

    with sync_playwright() as playwright:
        path = executable(playwright.chromium)
        if path is None:
            pytest.skip("preference page in a browser: no Chromium on this machine")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def profile(browser):
    """A browser's memory, in which every request and complaint of its tabs is heard."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(20_000)
    asked, complaints = [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda message: complaints.append(message.text))
    yield context
    context.close()
    assert complaints == []
    assert all(url.startswith(("file:", "blob:")) for url in asked)


class Voter:
    """One tab with the page open, from a folder and without a server."""

    def __init__(self, profile, page):
        self.tab = profile.new_page()
        self.tab.goto((page / "index.html").as_uri())

    def enter(self, name=None):
        if name:
            self.tab.get_by_label("Your name").fill(name)
        self.tab.locator("#enter").click()
        return self

    def seen(self):
        """Wait until both pictures are there; the name of the pair."""
        self.tab.locator(".images[aria-busy=false]").wait_for()
        left, right = (Path(self.tab.locator(f"#{side}").get_attribute("src")).stem for side in ("left", "right"))
        assert left.removesuffix("-left") == right.removesuffix("-right")
        return left.removesuffix("-left")

    def press(self, *keys):
        for key in keys:
            self.tab.keyboard.press(key)

    def where(self):
        return self.tab.locator("#where").inner_text()

    def pressed(self):
        return self.tab.locator("fieldset button[aria-pressed=true]").evaluate_all("all => all.map(b => b.value)")

    def download(self, press=".download:visible"):
        with self.tab.expect_download() as coming:
            self.tab.locator(press).click()
        path = Path(coming.value.path())
        return coming.value.suggested_filename, json.loads(path.read_text())


def test_a_voter_answers_all_and_the_file_is_counted(tmp_path, profile, page, key):
    voter = Voter(profile, page).enter("Ann")
    order = []
    for _ in range(PAIRS):
        order.append(voter.seen())
        left = key.left[order[-1]]
        voter.press("1" if left == B else "3", "2")
    voter.tab.get_by_role("heading", name="Thank you!").wait_for()
    name, votes = voter.download()
    assert name == f"votes-{votes['voter']}.json" and votes["name"] == "Ann"
    assert sorted(order) == sorted(key.left) and order != list(key.left)
    path = tmp_path / name
    path.write_text(json.dumps(votes))
    questions = count_votes(key, [path]).questions
    assert (questions["alignment"].losses, questions["quality"].ties, questions["overall"].losses) == (PAIRS,) * 3


def test_votes_outlive_the_tab_and_go_on_where_they_were(profile, page):
    voter = Voter(profile, page).enter()
    first = voter.seen()
    voter.press("ArrowLeft", "ArrowRight")
    second = voter.seen()
    voter.press("ArrowDown")
    voter.tab.close()
    again = Voter(profile, page)
    assert again.tab.locator("#enter").inner_text() == f"Continue (1 of {PAIRS} done)"
    again.enter()
    assert (again.seen(), again.where(), again.pressed()) == (second, f"Pair 2 of {PAIRS}", ["same"])
    again.press("3")
    again.seen()
    _, votes = again.download()
    assert votes["answers"] == {
        first: {"alignment": "left", "quality": "right"},
        second: {"alignment": "same", "quality": "right"},
    }


def test_back_and_next_change_an_answer_without_losing_the_others(profile, page):
    voter = Voter(profile, page).enter()
    first = voter.seen()
    assert voter.tab.get_by_role("button", name="Next").is_disabled()
    assert voter.tab.get_by_role("button", name="Back").is_disabled()
    voter.press("1", "1")
    second = voter.seen()
    voter.press("Backspace")
    assert (voter.seen(), voter.pressed()) == (first, ["left", "left"])
    voter.press("2")
    assert (voter.seen(), voter.pressed()) == (first, ["same", "left"])
    voter.tab.get_by_role("group", name="looks better").get_by_role("button", name="Right").click()
    assert voter.seen() == second
    voter.tab.get_by_role("button", name="Back").click()
    assert (voter.seen(), voter.pressed()) == (first, ["same", "right"])
    voter.tab.get_by_role("button", name="Next").click()
    assert voter.seen() == second
    _, votes = voter.download()
    assert votes["answers"] == {first: {"alignment": "same", "quality": "right"}}


def test_a_key_held_down_or_meant_for_the_browser_is_no_vote(profile, page):
    voter = Voter(profile, page).enter()
    voter.seen()
    voter.tab.keyboard.down("1")
    voter.tab.keyboard.down("1")
    voter.press("Control+2", "5")
    assert (voter.pressed(), voter.where()) == (["left"], f"Pair 1 of {PAIRS}")


def test_another_voter_starts_afresh_and_the_first_votes_are_saved(profile, page):
    voter = Voter(profile, page).enter("Ann")
    voter.seen()
    voter.press("1", "1")
    voter.tab.reload()
    name, first = voter.download(".another:visible")
    assert first["name"] == "Ann" and len(first["answers"]) == 1
    assert voter.tab.get_by_label("Your name").input_value() == ""
    voter.enter()
    voter.seen()
    other, second = voter.download()
    assert other != name and second["answers"] == {} and second["order"] != first["order"]


def test_votes_in_two_tabs_stay_one(profile, page):
    one = Voter(profile, page).enter()
    one.seen()
    one.press("1", "1")
    two = Voter(profile, page).enter()
    two.seen()
    two.press("3", "3")
    one.tab.locator("#start:visible").wait_for()
    one.enter()
    assert one.where() == f"Pair 3 of {PAIRS}"


def test_captions_are_shown_as_text(profile, page):
    voter = Voter(profile, page).enter()
    captions = {pair["id"]: pair["caption"] for pair in pairs_of(page)}
    assert voter.tab.locator("#caption").text_content() == captions[voter.seen()]


def test_a_picture_that_is_missing_is_said_and_cannot_be_voted_on(browser, page):
    context = browser.new_context()
    for path in (page / "pictures").glob("*-right.png"):
        path.unlink()
    voter = Voter(context, page).enter()
    voter.tab.get_by_role("alert").filter(has_text="cannot be shown").wait_for()
    voter.press("1")
    assert voter.pressed() == []
    context.close()


def test_a_browser_that_keeps_nothing_says_so_and_still_gives_the_votes(browser, page):
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden') }})"
    )
    voter = Voter(context, page).enter()
    voter.tab.get_by_role("alert").filter(has_text="cannot store your votes").wait_for()
    first = voter.seen()
    voter.press("1")
    _, votes = voter.download()
    context.close()
    assert votes["answers"] == {first: {"alignment": "left"}}


def test_small_pictures_are_enlarged_unblurred_and_large_ones_fit(out, profile, page):
    small = Voter(profile, page).enter()
    small.seen()
    style = "image => [getComputedStyle(image).imageRendering, image.width > 25 * image.naturalWidth]"
    assert small.tab.locator("#left").evaluate(style) == ["pixelated", True]
    for arm in ARMS:
        for path in (out / "images" / arm / "7.5").iterdir():
            Image.new("RGB", (1024, 1024)).save(path)
    build_page(out, ARMS, SCALE, PAIRS, 0, out / "large")
    large = Voter(profile, out / "large").enter()
    large.seen()
    assert large.tab.locator("#left").evaluate(style)[0] == "auto"
    assert large.tab.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_a_phone_needs_no_sideways_scrolling(browser, page):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    voter = Voter(context, page).enter()
    voter.seen()
    assert voter.tab.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_schemes(browser, page, scheme):
    """WCAG AA: 4.5 : 1 for what is read."""
    context = browser.new_context(color_scheme=scheme)
    voter = Voter(context, page).enter()
    voter.seen()
    voter.press("1")
    read = [
        ("#caption", "body"),
        ("#where", "body"),
        (".current legend", ".current"),
        (".current button", ".current button"),
        ("[aria-pressed=true]", "[aria-pressed=true]"),
    ]
    style = "([ink, ground]) => [getComputedStyle($(ink)).color, getComputedStyle($(ground)).backgroundColor]"
    asked = f"pairs => {{ const $ = name => document.querySelector(name); return pairs.map({style}) }}"
    colours = voter.tab.evaluate(asked, read)
    context.close()
    assert all(contrast(*pair) >= 4.5 for pair in colours), colours


def contrast(ink, ground):
    """Of two CSS colours rgb(r, g, b), as WCAG 2 defines it."""
    lights = []
    for colour in (ink, ground):
        parts = np.array([int(each) for each in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
