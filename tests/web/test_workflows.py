"""Every workflow that the pack ships loads in the page without a missing node, and the host takes and runs it."""

import pytest

from .templates import MODELS, NAMES, nodes_of, place_files

SHOWING = ("PreviewImage", "MaskPreview", "SaveImage", "SCFGSegmentation", "SCFGScaleMap", "SCFGCurves")


@pytest.fixture(scope="module")
def tab(browser, server):
    from .page import ComfyPage

    place_files(server)
    tab = ComfyPage(browser, server, vue=False)
    yield tab
    tab.close()


@pytest.fixture
def accepted(page):
    """Load a workflow in the page, and give what the page would queue."""

    def load(name):
        from .page import workflow

        page.load(workflow(name))
        unknown = "node => node.has_errors || !(node.type in LiteGraph.registered_node_types)"
        assert page.ask(f"() => app.rootGraph.nodes.filter({unknown}).map(node => node.type)") == []
        assert len(page.ask("() => app.rootGraph.nodes.map(node => node.type)")) == len(nodes_of(name))
        return page.ask("async () => (await app.graphToPrompt()).output")

    return load


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS.keys() & {n["type"] for n in nodes_of(name)}])
def test_workflows_for_models_are_accepted(accepted, server, name):
    answer = server.post("/prompt", {"prompt": accepted(name), "client_id": "nobody"})
    assert answer.get("node_errors") == {}


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not MODELS.keys() & {n["type"] for n in nodes_of(name)}]
)
def test_workflows_on_the_demo_model_run(accepted, server, page, name):
    run = server.run(accepted(name))
    assert run.error is None
    shown = [node for node, pictures in run.pictures.items() if pictures]
    assert len(shown) == sum(node["type"] in SHOWING for node in nodes_of(name))
    page.ask(
        "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [130, 250]; app.canvas.setDirty(true, true) }"
    )
    page.run()
    page.ended()
    page.page.wait_for_timeout(1000)
    page.shot(f"workflow-{name}")
