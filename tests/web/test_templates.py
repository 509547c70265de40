"""The templates in a window of 1500×950, in both renderers: text can be read, and nothing hides a node."""

from itertools import combinations

import pytest

from .templates import NAMES, nodes_of, place_files

ZOOM = 0.79
"""Text of 14 px is then 11 px high; below 8 px the classic renderer draws none."""

SCALE = 0.72
"""Of every template."""

MINIMAP = """async () => {
    await app.extensionManager.command.execute('Comfy.Canvas.FitView')
    await new Promise(resolve => setTimeout(resolve, 600))
    const map = document.querySelector('.minimap-main-container').getBoundingClientRect()
    const {scale, offset} = app.canvas.ds, place = app.canvas.canvas.getBoundingClientRect()
    const hidden = app.rootGraph.nodes.filter(({boundingRect: [x, y, width, height]}) =>
        (x + width + offset[0]) * scale + place.left > map.left &&
        (y + height + offset[1]) * scale + place.top > map.top)
    return [scale, hidden.map(node => `${node.id} ${node.title}`)]
}"""
"""How much the host shrinks a template that it opens, and the nodes that its minimap then covers."""

LONG_NOTES = """() => [...document.querySelectorAll('textarea')]
    .filter(text => text.scrollHeight > text.clientHeight + 2).map(text => text.value.slice(0, 30))"""

BOXES = "() => app.rootGraph.nodes.map(node => [`${node.id} ${node.title}`, [...node.boundingRect]])"


@pytest.fixture(scope="module", autouse=True)
def files(server):
    place_files(server)


def test_the_demo_opens_with_text_that_can_be_read(page):
    from ..comfyui.server import FOLDER

    page.page.get_by_role("button", name="Templates").first.click()
    page.page.get_by_role("dialog").get_by_text(FOLDER).first.click()
    page.page.get_by_test_id("template-workflow-scfg_demo").click()
    page.wait("count => app.rootGraph.nodes.length === count", len(nodes_of("scfg_demo")))
    page.page.wait_for_timeout(2000)
    page.shot(f"{page.renderer}-template")
    assert page.ask("() => app.canvas.ds.scale") >= ZOOM
    assert not page.ask("() => app.canvas.low_quality")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_lies_over_a_node_and_every_text_fits(page, name):
    from .page import workflow

    page.load(workflow(name))
    page.page.wait_for_timeout(1000)
    scale, hidden = page.ask(MINIMAP)
    assert scale >= SCALE and hidden == []
    assert page.ask(LONG_NOTES) == []
    boxes = page.ask(BOXES)
    assert len(boxes) == len(nodes_of(name))
    hidden = [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if overlap(a, b)]
    assert hidden == []


def overlap(one, other) -> bool:
    (x, y, w, h), (a, b, c, d) = one, other
    return x < a + c and a < x + w and y < b + d and b < y + h
