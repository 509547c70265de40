"""Advanced inputs are folded in both renderers, until they are asked for, linked or used by the preset “custom”."""

import pytest

GUIDANCE = "SCFGGuidance"
PLAIN = ["strength", "start_percent", "end_percent", "preset"]
CUSTOM = ["benchmark", "ratio_min", "ratio_max", "cap", "smooth_ratio", "mean_preserving", "regions"]

ROWS = {
    "classic": """() => {
        const [node] = nodesOf('SCFGGuidance')
        const hasRow = node.isWidgetRowVisible ?? node.isWidgetVisible
        return node.widgets.filter(widget => hasRow.call(node, widget)).map(widget => widget.name)
    }""",
    "nodes2": """() => {
        const names = nodesOf('SCFGGuidance')[0].widgets.map(widget => widget.name)
        const node = document.querySelector(`[data-node-id="${nodesOf('SCFGGuidance')[0].id}"]`)
        const shown = [...node.querySelectorAll('*')].filter(each => !each.children.length && each.offsetHeight)
        return names.filter(name => shown.some(each => each.textContent.trim() === name))
    }""",
}

CHOOSE = """value => {
    const preset = nodesOf('SCFGGuidance')[0].widgets.find(widget => widget.name === 'preset')
    preset.value = value
    preset.callback(value)
}"""


@pytest.fixture
def guidance(page):
    """A page with the demo workflow, and how to wait until its guidance node shows these inputs."""
    from .page import workflow

    page.load(workflow("scfg_demo"))
    page.look_at(GUIDANCE)

    def shows(names):
        wanted = f"names => JSON.stringify(({ROWS[page.renderer]})().filter(name => name !== 'scfg_live'))"
        page.wait(f"names => ({wanted})(names) === JSON.stringify(names)", names)

    page.shows_inputs = shows
    return page


def every_input(page):
    return page.ask("() => nodesOf('SCFGGuidance')[0].widgets.map(widget => widget.name)")[:-1]


def test_they_are_folded_and_still_part_of_the_prompt(guidance):
    guidance.shows_inputs(PLAIN)
    (queued,) = [
        node["inputs"]
        for node in guidance.ask("async () => (await app.graphToPrompt()).output").values()
        if node["class_type"] == GUIDANCE
    ]
    assert queued.keys() == {*every_input(guidance), "model"}
    assert queued["ratio_max"] == 3 and queued["when_not_watchable"] == "plain"


def test_the_preset_custom_unfolds_what_it_uses(guidance):
    guidance.ask(CHOOSE, "custom")
    guidance.shows_inputs(every_input(guidance))
    assert every_input(guidance)[4:11] == CUSTOM
    guidance.shot(f"{guidance.renderer}-custom")
    saved = guidance.ask("async () => (await app.graphToPrompt()).workflow")
    guidance.load(saved)
    guidance.look_at(GUIDANCE)
    guidance.shows_inputs(every_input(guidance))


AWAY = """() => {
    const [node] = nodesOf('SCFGGuidance')
    return node.inputs.map((input, index) => [input.name, node.getInputPos(index)[1] - node.pos[1]])
        .filter(([name, y]) => y < -1000).map(([name]) => name)
}"""


def test_no_link_can_be_dropped_on_a_folded_one(guidance):
    hidden = every_input(guidance)[4:] if guidance.renderer == "classic" else []
    assert guidance.ask(AWAY) == hidden
    guidance.ask(CHOOSE, "custom")
    guidance.shows_inputs(every_input(guidance))
    guidance.page.wait_for_timeout(300)
    assert guidance.ask(AWAY) == []
    guidance.ask(CHOOSE, "default")
    guidance.page.wait_for_timeout(300)
    if guidance.renderer == "classic":
        assert guidance.ask(AWAY) == hidden


def test_what_a_user_folds_stays_folded(guidance):
    guidance.ask(CHOOSE, "custom")
    guidance.shows_inputs(every_input(guidance))
    guidance.ask("() => { nodesOf('SCFGGuidance')[0].showAdvanced = false }")
    guidance.load(guidance.ask("async () => (await app.graphToPrompt()).workflow"))
    guidance.look_at(GUIDANCE)
    guidance.shows_inputs(PLAIN)


def test_a_workflow_that_was_saved_before_opens_with_them_where_it_uses_them(page, guidance):
    from .page import workflow

    old = workflow("scfg_demo")
    (node,) = [node for node in old["nodes"] if node["type"] == GUIDANCE]
    node["widgets_values"][3] = "custom"
    assert "showAdvanced" not in node
    page.load(old)
    page.look_at(GUIDANCE)
    guidance.shows_inputs(every_input(page))


def test_a_linked_one_is_shown(guidance):
    guidance.ask(
        """() => {
            const [node] = nodesOf('SCFGGuidance')
            const number = LiteGraph.createNode('PrimitiveFloat')
            app.canvas.graph.add(number)
            number.connect(0, node, node.inputs.findIndex(input => input.name === 'ratio_max'))
        }"""
    )
    guidance.shows_inputs([*PLAIN, "ratio_max"])


def test_the_hosts_setting_unfolds_all(guidance):
    name = "Comfy.Node.AlwaysShowAdvancedWidgets"
    choose = "async ([name, value]) => { await app.extensionManager.setting.set(name, value) }"
    guidance.ask(choose, [name, True])
    guidance.shows_inputs(every_input(guidance))
    guidance.ask(choose, [name, False])
    guidance.shows_inputs(PLAIN)
