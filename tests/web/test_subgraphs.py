"""The page offers the pack's blueprints in its node library, writes them out as we expect, and runs them."""

import json

import pytest

WORDS = {"prompt": "a yellow tent and a blue house on grass at noon", "steps": 4, "cfg": 3, "seed": 7}
SOURCES = {"MODEL": ("9001", 0), "CLIP": ("9001", 1), "VAE": ("9001", 2), "LATENT": ("9002", 0)}
VALUES = {"S-CFG Mask from Words": WORDS | {"words": "yellow tent"}, "S-CFG Sampler with Views": WORDS}


@pytest.fixture(scope="module")
def tab(browser, server):
    from .page import ComfyPage

    tab = ComfyPage(browser, server, vue=False)
    yield tab
    tab.close()


def connected(page, name):
    """Load a blueprint, link the demo model and a preview of every image to it, and set its widgets."""
    from ..comfyui.blueprints import PACK

    page.load(json.loads((PACK / "subgraphs" / f"{name}.json").read_text()))
    page.ask(
        """values => {
            const graph = app.rootGraph, node = graph.nodes[0]
            const add = (type, id, place) => {
                const made = LiteGraph.createNode(type)
                made.id = id
                made.pos = place
                graph.add(made)
                return made
            }
            const model = add('SCFGDemoModel', 9001, [-400, 0]), latent = add('EmptyLatentImage', 9002, [-400, 200])
            for (const widget of latent.widgets) if (widget.name !== 'batch_size') widget.value = 256
            for (const source of [model, latent])
                source.outputs.forEach((slot, place) => {
                    const target = node.inputs.findIndex(each => each.type === slot.type)
                    if (target >= 0) source.connect(place, node, target)
                })
            node.outputs.forEach((slot, place) => {
                const kind = {IMAGE: 'PreviewImage', MASK: 'MaskPreview'}[slot.type]
                if (kind) node.connect(place, add(kind, 9100 + place, [500 + 260 * place, 0]), 0)
            })
            for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(each => each.name === name)
                widget.value = value
                widget.callback?.(value)
            }
        }""",
        VALUES[name],
    )
    return str(page.ask("() => app.rootGraph.nodes[0].id"))


@pytest.mark.parametrize("name", VALUES)
def test_the_page_writes_it_out_as_we_do_and_runs_it(page, name):
    from ..comfyui.blueprints import written_out

    place = connected(page, name)
    queued = page.ask("async () => (await app.graphToPrompt()).output")
    links = {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "latent_image": "LATENT"}
    given = {each: list(SOURCES[kind]) for each, kind in links.items()} | VALUES[name]
    expected, outputs = written_out(name, place, **given)
    inner = {key: each for key, each in queued.items() if key.startswith(f"{place}:")}
    assert {key: each["class_type"] for key, each in inner.items()} == {
        key: each["class_type"] for key, each in expected.items()
    }
    assert {key: each["inputs"] for key, each in inner.items()} == {
        key: each["inputs"] for key, each in expected.items()
    }
    page.run()
    page.ended()
    page.page.wait_for_timeout(1000)
    page.shot(f"blueprint-{name.replace(' ', '-')}")
    assert len(outputs) == page.ask("() => app.rootGraph.nodes[0].outputs.length")


def test_the_node_library_offers_both(page):
    page.page.keyboard.press("n")
    page.page.get_by_placeholder("Search", exact=False).first.fill("scfg")
    for name in VALUES:
        page.page.get_by_text(name[:16], exact=False).first.wait_for()
    page.shot("blueprints-in-the-library")
    page.page.keyboard.press("n")
