"""The live view shows the run that made the image on the page, and why S-CFG was inactive in it."""

import itertools

GUIDANCE = "SCFGGuidance"
SEEDS = itertools.count(500)
INACTIVE = "S-CFG inactive: cfg is 1; there is no guidance to scale. Raise cfg in the sampler."


def sampled(page, graph):
    """A page that has run a workflow, and looks at the guidance node; what its live view says."""
    page.load(graph)
    page.look_at(GUIDANCE)
    return again(page)


def again(page, **changed):
    """Run the open workflow once more, with changed widgets of its samplers."""
    for name, value in changed.items():
        page.set("KSampler", name, value)
    page.forget()
    page.run()
    page.ended()
    page.shows_the_last_run(GUIDANCE)
    return page.label(GUIDANCE)


def cached(page):
    """Whether the last run sampled nothing."""
    return page.events() == []


def test_it_is_there_again_after_a_reload_and_a_cached_run(page):
    from .page import guided_only

    graph = guided_only(next(SEEDS))
    before = sampled(page, graph)
    page.open()
    page.load(graph)
    page.look_at(GUIDANCE)
    page.shows(GUIDANCE, "Run to see regions")
    page.run()
    page.ended()
    page.shows(GUIDANCE, before)
    page.says(GUIDANCE, "S-CFG active: ")
    page.filled(GUIDANCE)
    assert cached(page)
    page.shot(f"{page.renderer}-reloaded-and-cached")


def test_a_seed_that_is_set_back_brings_its_own_run_back(page):
    from .page import guided_only

    first, second = next(SEEDS), next(SEEDS)
    of_first = sampled(page, guided_only(first))
    of_second = again(page, seed=second)
    assert of_first != of_second
    page.set("KSampler", "seed", first)
    page.run()
    page.shows(GUIDANCE, of_first)  # cached or sampled again, as the host's memory decides
    page.ended(2)


def test_an_inactive_run_says_why_also_when_it_is_cached(page):
    from .page import guided_only

    graph = guided_only(next(SEEDS))
    sampled(page, graph)
    page.set("KSampler", "cfg", 1.0)
    page.run()
    page.shows(GUIDANCE, INACTIVE)
    page.says(GUIDANCE, INACTIVE)
    page.filled(GUIDANCE, 0)
    page.ended(2)
    assert page.legend(GUIDANCE) == []
    page.shot(f"{page.renderer}-inactive")
    page.open()
    page.load(graph)
    page.set("KSampler", "cfg", 1.0)
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    page.shows(GUIDANCE, INACTIVE)
    assert cached(page)


def test_a_run_stays_where_its_image_does_because_its_node_was_refused(page):
    from .page import workflow

    page.load(workflow("scfg_demo_word_weights", next(SEEDS)))
    page.look_at(GUIDANCE)
    page.run()
    page.ended()
    page.says(GUIDANCE, "S-CFG active: ")
    page.shows(GUIDANCE, "step 20 of 20")
    before = page.label(GUIDANCE)
    page.ask(
        """seed => {
            nodesOf('SCFGWordWeights')[0].widgets[0].value = 'pink star 0'
            nodesOf('KSampler')[0].widgets[0].value = seed
        }""",
        next(SEEDS),  # so that the image without weights is made anew
    )
    page.forget()
    page.run()
    page.ended()
    page.page.wait_for_timeout(1000)
    page.shot(f"{page.renderer}-refused")
    assert page.label(GUIDANCE) == before


def test_a_node_without_a_part_in_the_image_shows_no_old_run(page):
    from .page import guided_only

    sampled(page, guided_only(next(SEEDS)))
    page.forget()
    page.ask(
        """() => {
            const [model] = nodesOf('SCFGDemoModel')
            for (const sampler of nodesOf('KSampler')) model.connect(0, sampler, 0)
            for (const preview of nodesOf('PreviewImage')) preview.mode = 0
        }"""
    )
    page.set("KSampler", "seed", next(SEEDS))
    page.run()
    page.ended()
    page.shows(GUIDANCE, "No record of the last run")
