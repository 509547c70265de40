"""The live view in the page: it fills in while sampling, stays, and can be pointed at, in both renderers."""

import itertools

import pytest

GUIDANCE, ATTENTION = "SCFGGuidance", "SCFGAttention"
STEPS, MANY_STEPS = 20, 60
SEEDS = itertools.count(100)


def sampled(page, runs=1):
    """A page that has run the demo workflow from a seed of its own, and looks at the guidance node.

    runs: how many have ended then since the test began.
    """
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.look_at(GUIDANCE)
    page.run()
    page.ended(runs)
    page.filled(GUIDANCE)
    return page


def test_the_template_opens_and_the_view_fills_in_while_it_samples(page):
    from ..comfyui.server import FOLDER

    page.page.get_by_role("button", name="Templates").first.click()
    page.page.get_by_text(FOLDER).first.click()
    page.page.get_by_test_id("template-workflow-scfg_demo").click()
    page.wait("() => nodesOf('SCFGGuidance').length === 1")
    changed = {"seed": next(SEEDS), "steps": MANY_STEPS}
    page.ask(
        """changed => nodesOf('KSampler').forEach(node => {
            for (const widget of node.widgets) if (widget.name in changed) widget.value = changed[widget.name]
        })""",
        changed,
    )
    page.look_at(GUIDANCE)
    page.shows(GUIDANCE, "Run to see regions")
    page.shot(f"{page.renderer}-before")
    page.ask(
        """() => {
            window.drawnWhileRunning = new Set()
            const isRunning = () => !heard.some(([name]) => name === 'execution_success')
            const note = () => isRunning() && drawnWhileRunning.add(framesOf('SCFGGuidance'))
            new MutationObserver(note).observe(viewOf('SCFGGuidance').element, {attributes: true})
        }"""
    )
    page.run()
    page.wait("() => framesOf('SCFGGuidance') > 2")
    page.shot(f"{page.renderer}-while-sampling")
    page.ended()
    page.shows(GUIDANCE, f"step {MANY_STEPS} of {MANY_STEPS}")
    assert len(page.ask("() => [...drawnWhileRunning]")) > 1, "nothing was drawn before the end"
    page.shot(f"{page.renderer}-after")


def test_slider_arrow_keys_hover_and_solo(page):
    sampled(page)
    page.click(GUIDANCE, "slider", x=0.0)
    page.shows(GUIDANCE, f"step 1 of {STEPS}")
    page.page.keyboard.press("ArrowRight")
    page.shows(GUIDANCE, f"step 2 of {STEPS}")
    page.point(GUIDANCE, "slider", x=0.1)
    page.page.mouse.down()
    page.point(GUIDANCE, "slider", x=1.0)
    page.page.mouse.up()
    page.shows(GUIDANCE, f"step {STEPS} of {STEPS}")
    page.reads(GUIDANCE, ". Here ", x=0.5, y=0.55)
    assert "mean γ" in page.label(GUIDANCE)
    page.shot(f"{page.renderer}-hover")
    word = page.legend(GUIDANCE)[1]
    page.click(GUIDANCE, "word", word)
    page.wait("word => viewOf('SCFGGuidance').solo === word", word)
    page.page.mouse.move(5, 500)
    page.shot(f"{page.renderer}-solo")
    page.click(GUIDANCE, "word", word)
    page.wait("() => viewOf('SCFGGuidance').solo === null")


def test_frames_are_small_and_go_to_the_client_that_runs(page, browser, server):
    from .page import ComfyPage

    other = ComfyPage(browser, server, vue=page.renderer == "nodes2")
    sampled(page)
    events = page.events()
    assert len(events) == STEPS
    assert max(len(str(event)) for event in events) < 16_000
    assert other.events() == []
    other.close()


def test_nothing_of_it_is_stored_in_the_workflow(page):
    sampled(page)
    saved = page.ask("async () => (await app.graphToPrompt()).workflow")
    text = page.ask("saved => JSON.stringify(saved)", saved)
    assert "data:image" not in text
    assert "scfg_live" not in text
    assert len(text) < 40_000


def test_the_result_is_there_again_after_other_tabs(page):
    sampled(page)
    page.page.get_by_role("button", name="Create a new blank workflow").click()
    page.wait("() => nodesOf('SCFGGuidance').length === 0")
    page.page.get_by_test_id("topbar-workflow-tabs").get_by_text("Unsaved Workflow").nth(-2).click()
    page.wait("() => nodesOf('SCFGGuidance').length === 1")
    page.look_at(GUIDANCE)
    page.filled(GUIDANCE)
    page.shot(f"{page.renderer}-after-tab-switch")


def test_inside_a_subgraph(page):
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.ask(
        """() => {
            const {subgraph, node} = app.canvas.graph.convertToSubgraph(new Set(nodesOf('SCFGGuidance')))
            app.canvas.openSubgraph(subgraph, node)
        }"""
    )
    page.wait("() => !app.canvas.graph.isRootGraph && nodesOf('SCFGGuidance').length === 1")
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    page.filled(GUIDANCE)
    assert all(":" in event["node"] for event in page.events())
    page.shot(f"{page.renderer}-subgraph")
    page.ask("() => app.canvas.setGraph(app.rootGraph)")
    page.wait("() => nodesOf('SCFGGuidance').length === 0")
    page.ask("() => app.canvas.setGraph(app.rootGraph.nodes.find(node => node.subgraph).subgraph)")
    page.wait("() => nodesOf('SCFGGuidance').length === 1")
    page.look_at(GUIDANCE)
    page.filled(GUIDANCE)
    page.ask("() => app.canvas.setGraph(app.rootGraph)")


def test_attention_and_guidance_show_the_same_run(page):
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.ask(
        """() => {
            const [guidance] = nodesOf('SCFGGuidance'), [model] = nodesOf('SCFGDemoModel')
            const watching = LiteGraph.createNode('SCFGAttention')
            app.canvas.graph.add(watching)
            watching.pos = [guidance.pos[0], guidance.pos[1] + guidance.size[1] + 80]
            model.connect(0, watching, 0)
            watching.connect(0, guidance, 0)
        }"""
    )
    page.look_at(ATTENTION)
    page.run()
    page.ended()
    page.filled(ATTENTION)
    page.shot(f"{page.renderer}-attention")
    page.look_at(GUIDANCE)
    page.filled(GUIDANCE)
    assert page.label(GUIDANCE) == page.label(ATTENTION)


def test_switched_off_nothing_is_sent(page):
    from .page import guided_only

    page.ask("async () => { await app.extensionManager.setting.set('SCFG.Live.On', false) }")
    page.load(guided_only(next(SEEDS)))
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    assert page.events() == []
    page.shows(GUIDANCE, "off in the settings")
    page.ask("async () => { await app.extensionManager.setting.set('SCFG.Live.On', true) }")
    sampled(page, runs=2)


def test_switched_off_the_old_run_goes_at_once(page):
    sampled(page)
    page.ask("async () => { await app.extensionManager.setting.set('SCFG.Live.On', false) }")
    page.shows(GUIDANCE, "off in the settings")
    page.ask("async () => { await app.extensionManager.setting.set('SCFG.Live.On', true) }")
    page.shows(GUIDANCE, "Run to see regions")


@pytest.mark.parametrize(
    "word", ["<img src=x onerror='window.hurt = 1'>", "\"quoted\" & 'more'", "</canvas><b>bold</b>"]
)
def test_words_are_text_and_never_markup(page, word):
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.look_at(GUIDANCE)
    page.ask(
        """word => {
            const shared = {area: 0.5, scale: 5}
            const words = [
                {...shared, text: word, colour: [0, 90, 160]},
                {...shared, text: 'b', colour: [200, 90, 0]},
            ]
            const maps = {labels: btoa('\\0\\0\\x01\\0'.repeat(2)), ratios: btoa('\\xe8\\x03'.repeat(4))}
            const drawn = {scale: 5, grid: [2, 2], span: 0.2, followed: [], preview: null}
            const frame = {index: 0, step: 0, steps: 20, ...drawn}
            const run = {node: String(nodesOf('SCFGGuidance')[0].id), graph: app.rootGraph.id, run: `of ${word}`}
            const detail = {...run, ...frame, ...maps, words, ramp: [[0, 0, 99], [255, 255, 255], [99, 0, 0]]}
            window.comfyAPI.api.api.dispatchEvent(new CustomEvent('scfg.step', {detail}))
        }""",
        word,
    )
    page.filled(GUIDANCE, 1)
    page.reads(GUIDANCE, f"Here {word}: 50 %", x=0.2, y=0.5)
    assert page.legend(GUIDANCE)[0] == word
    assert page.ask("() => viewOf('SCFGGuidance').element.querySelectorAll('img, b, canvas *').length") == 0
    assert page.ask("() => window.hurt") is None
    page.shot(f"{page.renderer}-markup")
