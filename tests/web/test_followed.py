"""The live view of a run in which a second prompt follows words: where its mask lies, at every step."""

from .page import workflow

GUIDANCE = "SCFGGuidance"


def test_the_followed_mask_is_drawn_and_its_share_stands_at_the_step(page):
    graph = workflow("scfg_demo_follow_words", 321)
    for node in graph["nodes"]:
        if node["type"] == GUIDANCE:
            node["flags"], node["pos"], node["size"] = {}, [1500, 0], [340, 820]
    page.load(graph)
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    page.filled(GUIDANCE)
    frames = page.ask(
        """() => viewOf('SCFGGuidance').result.frames.map(({followed}) => followed.map(({words, share, inside}) =>
            [words, share, inside.reduce((a, b) => a + b) / inside.length]))"""
    )
    assert all(len(followed) == 1 for followed in frames)
    assert frames[0][0][1] == 0, "nowhere before the first labels"
    (words, share, inside) = frames[-1][0]
    assert words
    assert 0.01 < share < 0.6
    assert abs(share - inside) < 0.02
    yellow = page.ask(
        """() => {
            const {canvas} = viewOf('SCFGGuidance')
            const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
            let count = 0
            for (let i = 0; i < data.length; i += 4)
                count += data[i] > 240 && data[i + 1] > 195 && data[i + 1] < 230 && data[i + 2] < 40
            return count
        }"""
    )
    assert yellow > 100, "no line around the followed region"
    page.shot(f"{page.renderer}-followed")
    assert page.complaints == []
