"""The evaluation of transformers: what is observed, how captions are grouped, arms, chance, and the command."""

import json

import pytest
import torch

from demo.joint.model import build_transformer, config_of, save_transformer
from demo.words import PAD
from demo.world import captions, held_out_scenes
from evaluation.accept import main
from evaluation.small_model.noised import TrueScenes
from evaluation.transformer.drawing import NOTHING, owners_of
from evaluation.transformer.maps import VARIANTS, Found, Subsets, figures_at, permuted, segment_noised
from evaluation.transformer.sampling import ARMS, draw_arms, levels, sample, starting_noise
from evaluation.transformer.watching import by_length, evaluate, prompt_of, segmentation

CAPTIONS = ["a red boat on water", "a blue moon at night", "a white cat on snow"]


def model_of(architecture, depth=2):
    torch.manual_seed(0)
    model = build_transformer(config_of(architecture, depth))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.transformer.eval()
    return model


@pytest.fixture(scope="module", params=["mmdit", "cross"])
def model(request):
    return model_of(request.param)


@pytest.fixture(scope="module")
def ids(model):
    return model.tokenizer(CAPTIONS)


@pytest.fixture(scope="module")
def attended(model):
    """What every attention of every block computes, from its own q and k: probabilities, averaged over heads."""
    found = [[] for _ in model.transformer.attentions()]
    for block, kept in zip(model.transformer.attentions(), found, strict=True):
        for attention in block:
            attention.register_forward_hook(
                lambda module, given, _, kept=kept: kept.append(probabilities(*given[:2]))
            )
    yield found
    for block in model.transformer.attentions():
        for attention in block:
            attention._forward_hooks.clear()


@pytest.fixture(scope="module")
def seen(model, ids, attended):
    for kept in attended:
        kept.clear()
    found = evaluate(model, starting_noise([1, 2, 3]), 0.5, ids, 3.0)
    for block in model.transformer.attentions():
        for attention in block:
            attention._forward_hooks.clear()
    return found


def probabilities(q, k):
    return (q.double() @ k.double().mT * q.shape[3] ** -0.5).softmax(-1).mean(1)


def maps_of(block, rows):
    """S and C of a block: in a joint one the text's 24 queries and keys come first."""
    if len(block) == 1:
        joint = block[0][rows, 24:]
        return joint[:, :, 24:], joint[:, :, :24]
    return tuple(part[rows] for part in block)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_segmentation_is_that_of_the_maps_themselves(seen, attended, variant):
    labels, foreground = segmentation(seen, [0, 1], VARIANTS[variant])
    settings = VARIANTS[variant]
    uncond, cond = slice(0, 3), slice(3, 6)
    owners = torch.tensor(seen.prompts["cond"].owners)
    total = torch.zeros(3, 256, len(owners), dtype=torch.float64)
    starts = torch.zeros(3, 256, 2, dtype=torch.float64)
    for block in attended:
        for rows, chosen in ((cond, "all"), (uncond, "start")):
            s, c = maps_of(block, rows)
            s = s / s.sum(-1, keepdim=True)
            step, found = c, settings.power_weights[0] * c
            for weight in settings.power_weights[1:]:
                step = s @ step
                found = found + weight * step
            if chosen == "all":
                total += found[..., owners]
            else:
                starts += torch.stack([found[..., 0], found[..., 1:].sum(-1)], -1)
    expected = owners[(total / total.mean(1, keepdim=True)).argmax(-1)]
    start, rest = (starts / starts.mean(1, keepdim=True)).unbind(-1)
    assert (expected.view(3, 16, 16) == labels).float().mean() > 0.995
    assert ((start < rest).view(3, 16, 16) == foreground).float().mean() > 0.995
    assert len(labels.unique()) > 1


def test_both_predictions_are_those_of_the_model(model, ids, seen):
    x, sigma = starting_noise([1, 2, 3]), torch.full((3,), 0.5)
    with torch.no_grad():
        cond = model.velocity(x, sigma, model.context(ids))
        uncond = model.velocity(x, sigma, model.context(model.tokenizer([""] * 3)))
    assert torch.allclose(seen.predictions.cond, cond, atol=1e-5)
    assert torch.allclose(seen.predictions.uncond, uncond, atol=1e-5)


def test_nothing_is_left_on_the_model(model, seen):
    hooks = [attention._forward_pre_hooks for block in model.transformer.attentions() for attention in block]
    assert hooks and not any(hooks)


def test_words_own_patches_and_padding_does_not(model, ids):
    prompt = prompt_of(ids, 30)
    assert prompt.branch == "cond" and prompt.start_tokens == (0,)
    assert [prompt.roles.count(role) for role in ("start", "word", "null")] == [1, 5, 24]
    assert prompt_of(model.tokenizer([""]), 30).branch == "uncond"
    with pytest.raises(ValueError, match="expected captions of one length"):
        prompt_of(model.tokenizer(["a red boat", "a red boat on water"]), 30)


def test_every_caption_is_in_one_batch_of_its_length():
    ids = captions(held_out_scenes(40, 3))[0]
    batches = list(by_length(ids, most=4))
    assert sorted(torch.cat(batches).tolist()) == list(range(40))
    assert all(len(batch) <= 4 and (ids[batch] > PAD).sum(1).unique().numel() == 1 for batch in batches)


def test_blocks_alone_and_together():
    assert Subsets(4).names == {
        "block 0": [0], "block 1": [1], "block 2": [2], "block 3": [3], "auto": [1], "all": [0, 1, 2, 3],
    }  # fmt: skip


def test_permuted_patches_keep_their_sizes():
    labels = torch.randint(5, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    found = Found(labels, labels > 2)
    chance = permuted(found)
    assert not torch.equal(chance.labels, labels)
    assert torch.equal(chance.labels > 2, chance.foreground)
    assert torch.equal(chance.labels.flatten(1).sort().values, labels.flatten(1).sort().values)


def test_a_scene_is_segmented_the_same_in_any_company(model):
    true = TrueScenes.held_out(6, 5)
    found = segment_noised(model, true, 0.4)
    alone = figures_at(model, true, 0.4)
    assert set(found) == {(subset, variant) for subset in Subsets(2).names for variant in VARIANTS}
    figure = alone["token mIoU, R = 4, all, σ 0.4"]
    assert 0 <= figure.low <= figure.mean <= figure.high <= 1
    assert (found["all", "R = 4"].labels >= 0).all()


def test_drawn_owners_are_what_the_tokens_name():
    true = TrueScenes.held_out(4, 5)
    owners = owners_of(Found(torch.zeros_like(true.patches), true.patches < 3), true)
    assert (owners == NOTHING).all()
    noun = (true.token_owners[0] == 0).nonzero()
    if len(noun):
        owners = owners_of(Found(torch.full_like(true.patches, int(noun[0])), true.patches < 3), true)
        assert (owners[0] == 0).all()


def test_levels_fall_from_noise_to_the_image():
    assert levels(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_plain_cfg_is_eulers_method(model, ids):
    noise = starting_noise([1, 2, 3])
    images, run = sample(model, ids, noise, [3.0] * 3, ARMS["cfg"], steps=1)
    seen = evaluate(model, noise, 1.0, ids, 3.0)
    uncond, cond = seen.predictions.uncond, seen.predictions.cond
    from demo.joint.model import to_images

    assert torch.allclose(images, to_images(noise - (uncond + 3 * (cond - uncond))), atol=1e-5)
    assert not run.evaluations


def test_even_arms_have_the_scale_of_cfg_and_matched_that_of_default(model, ids):
    drawn = draw_arms(model, ids, [1, 2, 3], 3.0, list(ARMS), steps=2)
    assert torch.equal(drawn["matched"].scales, drawn["default"].scales)
    for name in ("attention", "patches", "magnitude"):
        assert torch.allclose(drawn[name].scales, torch.full((3,), 3.0), atol=0.02)
        assert not torch.allclose(drawn[name].images, drawn["cfg"].images, atol=1e-4)
    assert not torch.allclose(drawn["attention"].images, drawn["patches"].images, atol=1e-4)
    assert not torch.allclose(drawn["matched"].images, drawn["cfg"].images, atol=1e-4)


def test_guidance_by_other_blocks_is_another(model, ids):
    one, other = (
        draw_arms(model, ids, [1, 2, 3], 3.0, ["attention"], steps=1, blocks=[block])["attention"].images
        for block in (0, 1)
    )
    assert not torch.allclose(one, other, atol=1e-4)


def test_the_command_measures_a_transformer(tmp_path, capsys):
    save_transformer(model_of("mmdit"), tmp_path / "model.safetensors")
    out = tmp_path / "found.json"
    options = ["--weights", str(tmp_path / "model.safetensors"), "--out", str(out)]
    options += ["--scenes", "4", "--prompts", "3", "--scales", "3", "--steps", "2", "--blocks", "0", "1"]
    main(["--arch", "mmdit", *options])
    record = json.loads(out.read_text())
    assert record["architecture"] == "mmdit" and record["depth"] == 2 and record["blocks"] == [0, 1]
    assert "token mIoU, C only, block 1, σ 0.8" in record["figures"]
    assert "all right, attention minus cfg, γ 3" in record["differences"]
    assert out.with_suffix(".png").exists() and "| block 1 |" in capsys.readouterr().out


def test_another_architecture_is_refused(tmp_path):
    save_transformer(model_of("cross"), tmp_path / "model.safetensors")
    with pytest.raises(SystemExit, match="has the architecture cross"):
        main(["--arch", "mmdit", "--weights", str(tmp_path / "model.safetensors")])


def test_an_arm_without_the_one_that_it_matches_is_refused():
    with pytest.raises(SystemExit, match="matched needs default; add it"):
        main(["--arch", "mmdit", "--arms", "cfg", "matched"])


def test_the_default_is_the_bundled_model(monkeypatch):
    from evaluation.small_model import acceptance

    given = []
    monkeypatch.setattr(acceptance, "main", given.append)
    main(["--prompts", "3"])
    assert given == [["--prompts", "3"]]
