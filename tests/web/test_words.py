"""Text in the page: legends of many words, lines that break between words, help that fits its panel."""

import itertools

import pytest

GUIDANCE, TEXT = "SCFGGuidance", "SCFGTextEncode"
SEEDS = itertools.count(900)
LONG = "absurdly-detailed-photorealistic-cinematographic-lighting"
ARABIC, HEBREW = "سماء زرقاء فوق البحر", "חתול שחור"
STATUS = (
    "S-CFG active: 16 layers, grids 32×32 + 16×16, 77 tokens, 1 prompt, mean γ 8.2, maps by PyTorch (skipped a "
    "layer whose tokens, batch rows or mask are changed (HyperTile, ToMe, attention couple, …))"
)
BROKEN_WORDS = """element => {
    const broken = [], range = document.createRange()
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT)
    while (walker.nextNode())
        for (const {index, 0: word} of walker.currentNode.data.matchAll(/\\S+/g)) {
            range.setStart(walker.currentNode, index)
            range.setEnd(walker.currentNode, index + word.length)
            const rows = new Set([...range.getClientRects()].map(rect => Math.round(rect.top)))
            if (rows.size > 1) broken.push(word)
        }
    return broken
}"""


def words_of_a_long_prompt(owners=30, others=8):
    """Words in the order of a prompt, of which the last own something only at the first step."""
    texts = [LONG, ARABIC, HEBREW, *(f"word {index}" for index in range(owners + others - 3))]
    areas = [0.8**index for index in range(owners)] + [0.0] * others
    return [
        {"text": text, "area": area / 5, "scale": 5.0, "colour": [40, 7 * index % 200, 90]}
        for index, (text, area) in enumerate(zip(texts, areas, strict=True))
    ]


@pytest.fixture
def long_prompt(page):
    """A page whose live view shows two steps of a run with many words, at the second step."""
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.look_at(GUIDANCE)
    words = words_of_a_long_prompt()
    page.ask(
        """([words, status]) => {
            const u16 = value => String.fromCharCode(value & 255, value >> 8)
            const pack = values => btoa(values.map(u16).join(''))
            const cells = [...Array(64).keys()]
            const run = {node: String(nodesOf('SCFGGuidance')[0].id), graph: app.rootGraph.id, run: 'of a test'}
            const ramp = [[0, 0, 99], [255, 255, 255], [99, 0, 0]]
            const step = {steps: 2, scale: 5, grid: [8, 8], span: 0.2, followed: [], preview: null, ramp}
            const shared = {...run, prompt: 'of a test', ...step}
            const maps = {labels: pack(cells.map(cell => cell % 30)), ratios: pack(cells.map(() => 1000))}
            const send = (name, detail) =>
                window.comfyAPI.api.api.dispatchEvent(new CustomEvent(name, {detail: {...shared, ...detail}}))
            const early = words.map(word => ({...word, area: word.area || 0.001}))
            send('scfg.step', {index: 0, step: 0, ...maps, words: early})
            send('scfg.step', {index: 1, step: 1, ...maps, words: words.filter(word => word.area)})
            send('scfg.run', {active: true, status})
        }""",
        [words, STATUS],
    )
    page.filled(GUIDANCE, 2)
    page.words = [word["text"] for word in words]
    return page


def hidden_outside(page):
    """Words of the legend that are cut off."""
    return page.ask(
        """kind => {
            const place = viewOf(kind).legend.element.getBoundingClientRect()
            const isOutside = box => box.bottom > place.bottom + 1 || box.right > place.right + 1
            return wordsOf(kind).filter(word => isOutside(word.getBoundingClientRect())).map(word => word.title)
        }""",
        GUIDANCE,
    )


def test_words_that_own_something_come_first_and_the_rest_unfolds(long_prompt):
    page = long_prompt
    shown = page.legend(GUIDANCE)
    assert 5 <= len(shown) < 30
    assert shown == page.words[: len(shown)]
    assert hidden_outside(page) == []
    more = page.page.locator(".scfg-more:visible").first
    assert more.inner_text() == f"+{len(page.words) - len(shown)} more"
    page.shot(f"{page.renderer}-many-words")
    more.click()
    assert page.legend(GUIDANCE) == page.words
    page.shot(f"{page.renderer}-many-words-unfolded")
    more.click()
    folded = page.legend(GUIDANCE)
    assert 5 <= len(folded) < 30
    assert folded == page.words[: len(folded)]
    page.click(GUIDANCE, "slider", x=0.0)
    page.shows(GUIDANCE, "step 1 of 2")
    assert page.legend(GUIDANCE)[:5] == page.words[:5]


def test_a_long_word_is_shortened_and_a_word_keeps_its_direction(long_prompt):
    page = long_prompt
    found = page.ask(
        """([kind, long]) => wordsOf(kind).slice(0, 3).map(word => {
            const text = word.querySelector('.scfg-text'), said = word.querySelector('.scfg-said')
            const [of, after] = [text, said].map(each => each.getBoundingClientRect())
            const {direction} = getComputedStyle(text)
            return [word.title, text.scrollWidth > text.clientWidth, direction, after.left >= of.right]
        })""",
        [GUIDANCE, LONG],
    )
    assert found == [
        [LONG, True, "ltr", True],
        [ARABIC, False, "rtl", True],
        [HEBREW, False, "rtl", True],
    ]


def test_the_status_breaks_between_words_and_stays_in_the_panel(long_prompt):
    page = long_prompt
    page.says(GUIDANCE, STATUS)
    assert page.ask(f"() => ({BROKEN_WORDS})(viewOf('SCFGGuidance').element)") == []
    inside = "view => view.status.getBoundingClientRect().bottom <= view.element.getBoundingClientRect().bottom"
    assert page.ask(f"() => ({inside})(viewOf('SCFGGuidance'))")


def test_the_host_has_no_status_of_its_own_on_the_node(page):
    from .page import guided_only

    page.load(guided_only(next(SEEDS)))
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    page.says(GUIDANCE, "maps by PyTorch")
    names = page.ask("() => nodesOf('SCFGGuidance')[0].widgets.map(widget => widget.name)")
    assert [name for name in names if "preview" in name] == []


def test_words_that_the_demo_model_skips_stay_on_the_text_node_until_it_runs_again(page):
    from .page import guided_only

    shown = "() => nodesOf('SCFGTextEncode')[0].widgets.find(widget => widget.name === 'scfg_message')?.element"
    page.load(guided_only(next(SEEDS)))
    page.ask(
        """text => {
            const [node] = nodesOf('SCFGTextEncode'), view = app.canvas.ds
            view.scale = 1
            view.offset = [200 - node.pos[0], 200 - node.pos[1]]
            node.widgets[0].value = text
        }""",
        f"a purple elephant on grass in {page.renderer}",  # a prompt that the host has not cached
    )
    page.run()
    page.ended()
    page.wait(f"() => ({shown})()?.innerText.includes('skipped elephant')")
    page.wait(f"() => ({shown})().getBoundingClientRect().height > 20")
    assert page.ask(f"() => ({BROKEN_WORDS})(({shown})())") == []
    page.shot(f"{page.renderer}-skipped-word")
    page.ask("() => { nodesOf('SCFGTextEncode')[0].widgets[0].value = 'a purple house on grass' }")
    page.forget()
    page.run()
    page.ended()
    assert page.ask(f"() => !({shown})()")


def test_help_fits_its_panel(page):
    from .page import guided_only

    graph = guided_only(next(SEEDS))
    page.load(graph)
    page.ask("() => { app.canvas.ds.scale = 1 }")
    for kind in sorted({node["type"] for node in graph["nodes"] if node["type"].startswith("SCFG")}):
        page.ask(
            """kind => {
                const [node] = nodesOf(kind)
                app.canvas.ds.offset = [300 - node.pos[0], 300 - node.pos[1]]
                app.canvas.deselectAll()
                app.canvas.selectNode(node)
            }""",
            kind,
        )
        title = page.ask("kind => LiteGraph.registered_node_types[kind].title", kind)
        page.page.wait_for_timeout(300)
        if not page.ask("() => !!document.querySelector('.node-help-content')"):
            page.page.get_by_test_id("info-button").first.click()
        page.wait("title => document.querySelector('.node-help-content h1')?.innerText === title", title)
        wide = """() => [...document.querySelectorAll('.node-help-content, .node-help-content *')]
            .filter(element => {
            const isBox = getComputedStyle(element).display !== 'inline'
            return isBox && element.scrollWidth > element.clientWidth + 1
        }).map(element => element.tagName)"""
        assert (kind, page.ask(wide)) == (kind, [])
        if kind == GUIDANCE:
            page.shot(f"{page.renderer}-help")
    page.complaints[:] = [said for said in page.complaints if "/en.md" not in said]  # asked for before the page
