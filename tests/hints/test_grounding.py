"""Locating things: each method and the fitting to edges against plain recomputation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from clipseg import tiny_clipseg

from seada_core import steering
from seada_core.hints import grounding
from seada_core.hints.propagation import HINT_WEIGHT, MIN_EDGE
from seada_core.models.classifier import class_name
from seada_core.pipeline import Colorizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory) -> Path:
    return tiny_clipseg(tmp_path_factory.mktemp("segmenters") / "clipseg")


@pytest.fixture(scope="module")
def mini() -> Colorizer:
    return Colorizer.from_pretrained("mini", "cpu")


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    picture = Image.open(ROOT / "samples" / "photo.jpg").convert("L").resize((90, 60))
    return pil_to_tensor(picture)[None] / 255


# --- attention --------------------------------------------------------------------------------------------------------


def test_attention_matches_an_explicit_softmax(tiny_preset):
    from seada_core.models.backbone import denoise
    from seada_core.weights import part_files

    torch.manual_seed(0)
    unet = part_files.build("unet", tiny_preset).eval()
    x, context, columns = torch.randn(2, 4, 8, 6), torch.randn(2, 16, 32), [[2], [4, 5], []]
    seen = []
    blocks = [m.attn2 for m in unet.modules() if getattr(m, "attn2", None) is not None]
    keep = [b.register_forward_pre_hook(lambda m, a: seen.append((m, *a))) for b in blocks]
    with torch.no_grad(), grounding.AttentionRegions(unet, columns) as regions:
        denoise(unet, x, torch.tensor(10), context)
    assert len(regions.maps) == len(seen) == len(blocks) > 0
    for handle in keep:
        handle.remove()
    with torch.no_grad():
        denoise(unet, x, torch.tensor(10), context)
    assert len(regions.maps) == len(seen)  # the hooks are removed

    expected = torch.zeros(2, 3, 8, 6)
    for block, hidden, text in seen:
        q, k = block.to_q(hidden), block.to_k(text)
        width = q.shape[-1] // block.heads
        cells = torch.zeros(2, 3, q.shape[1])
        for b in range(2):
            for head in range(block.heads):
                part = slice(head * width, (head + 1) * width)
                for cell in range(q.shape[1]):
                    logits = torch.stack([q[b, cell, part] @ word[part] for word in k[b]]) / width**0.5
                    shares = logits.exp() / logits.exp().sum()
                    cells[b, 0, cell] += shares[2] / block.heads
                    cells[b, 1, cell] += (shares[4] + shares[5]) / 2 / block.heads
        grid = {48: (8, 6), 12: (4, 3), 4: (2, 2)}[q.shape[1]]
        expected += F.interpolate(cells.unflatten(2, grid), (8, 6), mode="bilinear") / len(seen)
    low, high = expected.amin((2, 3), keepdim=True), expected.amax((2, 3), keepdim=True)
    expected = (expected - low) / (high - low).clamp_min(1e-6)
    torch.testing.assert_close(regions.scores((8, 6)), expected, atol=1e-3, rtol=1e-3)
    assert (regions.scores((8, 6))[:, 2] == 0).all()


def test_attention_of_a_batch_equals_single_photos(tiny_model):
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    gray = torch.rand(2, 1, 40, 70, generator=torch.Generator().manual_seed(0))
    both, phrases, missing = steering.word_hints(colorizer, gray, "a red dog, a purple zorblat", "attention")
    assert ([p.thing for p in phrases], [p.thing for p in missing]) == (["dog"], ["zorblat"])
    for i in range(2):
        alone = steering.word_hints(colorizer, gray[i : i + 1], "a red dog, a purple zorblat", "attention")[0]
        torch.testing.assert_close(both[i : i + 1], alone, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 2)])
def test_attention_takes_any_shape(tiny_model, size):
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    scores = steering.find_regions(colorizer, torch.rand(1, 1, *size), "a red dog", ["dog"], "attention", 0)
    assert scores.shape[:2] == (1, 1) and scores.isfinite().all()


# --- fitting to edges -------------------------------------------------------------------------------------------------


def test_refine_matches_a_dense_solve():
    generator = torch.Generator().manual_seed(0)
    gray, scores = torch.rand(1, 1, 7, 9, generator=generator), torch.rand(1, 2, 7, 9, generator=generator)
    found = grounding.refine(gray, scores)
    n, y = 63, gray.flatten().double()
    laplacian = torch.zeros(n, n, dtype=torch.float64)
    for a in range(n):
        for b in range(n):
            if a != b and max(abs(a // 9 - b // 9), abs(a % 9 - b % 9)) == 1:
                weight = max(MIN_EDGE, float(torch.exp(-((y[a] - y[b]) ** 2) / (2 * 0.04**2))))
                laplacian[a, a] += weight
                laplacian[a, b] -= weight
    for i in range(2):
        value = scores[0, i].flatten().double() - 0.5
        sure = ((value.abs() - 0.25) / 0.25).clamp(0, 1)
        x = torch.linalg.solve(laplacian + HINT_WEIGHT * torch.diag(sure), HINT_WEIGHT * sure * 0.5 * value.sign())
        torch.testing.assert_close(found[0, i].flatten().double(), (x + 0.5).clamp(0, 1), atol=0.01, rtol=0)


def test_a_large_photo_is_refined_at_a_small_size():
    assert grounding.refine(torch.rand(1, 1, 400, 1000), torch.rand(1, 1, 5, 5)).shape == (1, 1, 64, 160)
    assert grounding.refined_size((1, 9000)) == (1, 160)


# --- recognition ------------------------------------------------------------------------------------------------------


def test_recognition_finds_only_known_things(mini, photo):
    captioner = mini.part("captioner")
    scores = grounding.recognized_regions(captioner, photo, ["cup", "zorblat", "coffee mug"])
    assert scores.shape == (1, 3, 60, 90)
    assert scores.min() >= 0 and scores.max() <= 1
    assert (scores[:, 1] == 0).all()
    middle, edges = scores[0, 0, 5:30, 30:60].mean(), scores[0, 0, :, :12].mean()
    assert middle > edges + 0.3


def test_recognition_of_a_batch_and_of_large_photos(mini, photo):
    captioner, both = mini.part("captioner"), torch.cat([photo, photo.flip(3)])
    scores = grounding.recognized_regions(captioner, both, ["cup"])
    for i in range(2):
        alone = grounding.recognized_regions(captioner, both[i : i + 1], ["cup"])
        torch.testing.assert_close(scores[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    large = grounding.recognized_regions(captioner, F.interpolate(photo, (1200, 1800)), ["cup"])
    assert large.shape == (1, 1, 107, 160)  # many things in a large photo must fit in memory


def test_words_colour_known_things_and_report_unknown_ones(mini, photo):
    found, phrases, missing = steering.word_hints(mini, photo, "a red cup beside a purple zorblat")
    assert ([p.thing for p in phrases], [p.thing for p in missing]) == (["cup"], ["zorblat"])
    assert found.shape == (1, 3, 60, 90) and found[:, 2].min() >= 0 and found[:, 2].max() <= steering.WORD_WEIGHT + 1e-6
    cup = found[0, :, 10:25, 35:55]
    assert cup[2].mean() > 0.4 and cup[1].mean() > 0.1  # Cr of red
    assert steering.word_hints(mini, photo, "a cup on a table") == (None, [], [])
    assert steering.word_hints(mini, photo, "a purple zorblat")[0] is None


def test_only_things_of_the_kind_are_looked_for_and_not_what_is_seen_with_them():
    names = [class_name(i) for i in range(1000)]

    def found(thing, near=False):
        return {names[i] for i in grounding._classes([thing], near)[0]}

    assert found("motorcycle") == {"moped", "vespa"} == found("motorcycle", near=True) - {"crash helmet"}
    assert "volcano" in found("mountain") and "mobile home" in found("house")
    assert not found("sky") and found("sky", near=True)
    assert {"crash helmet", "suit", "kimono"} <= found("worn")


def test_what_is_not_worn_is_not_where_worn_things_are(mini, photo, monkeypatch):
    """The classifier is made to see a helmet in the upper half of the photo."""
    helmet = [class_name(i) for i in range(1000)].index("crash helmet")
    look = grounding._look

    def seen(*arguments):
        result = look(*arguments)
        result.log_probability[:, :, : result.log_probability.shape[2] // 2] = -20.0
        result.log_probability[:, helmet, : result.log_probability.shape[2] // 2] = 0.0
        return result

    captioner = mini.part("captioner")
    before = grounding.recognized_regions(captioner, photo, ["cup", "hat"])[0]
    monkeypatch.setattr(grounding, "_look", seen)
    monkeypatch.setattr(grounding, "_present", lambda seen, *_: torch.ones(1, dtype=torch.bool))
    cup, hat = grounding.recognized_regions(captioner, photo, ["cup", "hat"])[0]
    third = cup.shape[0] // 3
    assert before[0][:third].max() > 0.3 and cup[:third].max() < 1e-3 < hat[:third].max()


def test_a_word_for_what_is_not_there_is_refused_with_what_is(mini, photo):
    """A cup on a table."""
    scores = grounding.recognized_regions(
        mini.part("captioner"), photo, ["cup", "dog", "car", "horse", "castle", "boat"]
    )
    assert (scores.amax((0, 2, 3)) > 0).tolist() == [True, *[False] * 5]
    names = steering.seen(mini, photo)
    assert len(names) == 3 and {"espresso", "cup", "coffee mug"} & set(names)
    text = steering.unseen(mini, photo, ["dog", "car"])
    assert text == f"the model sees no dog or car in it; it sees {', '.join(names)}"


def test_the_method_depends_on_the_models_parts(mini, tiny_model, tmp_path):
    tiny = Colorizer.from_pretrained(str(tiny_model), "cpu")
    assert [steering.finder(c) for c in (mini, tiny)] == ["recognition", "attention"]
    with pytest.raises(ValueError, match="no classifier to find things with"):
        steering.finder(tiny, "recognition")
    with pytest.raises(ValueError, match="no unet and semantic_encoder"):
        steering.finder(Colorizer(tmp_path, "cpu"))


# --- CLIPSeg ----------------------------------------------------------------------------------------------------------


def test_clipseg_scores_match_the_model(clipseg):
    model, tokenizer = grounding.load_clipseg(clipseg)
    assert grounding.load_clipseg(clipseg)[0] is model  # cached, so that it is not loaded for every photo
    gray = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    things = ["cup", "fire hydrant", "zorblat"]
    scores = grounding.clipseg_regions(model, tokenizer, gray, things)
    assert scores.shape == (2, 3, 32, 32) and scores.std() > 1e-3
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for i in range(2):
        for n, thing in enumerate(things):
            ids = torch.tensor([tokenizer(thing)["input_ids"]])
            with torch.no_grad():
                logits = model(input_ids=ids, pixel_values=(gray[i : i + 1].expand(-1, 3, -1, -1) - mean) / std).logits
            torch.testing.assert_close(scores[i, n], logits.sigmoid().view(32, 32), atol=1e-4, rtol=1e-3)


def test_clipseg_takes_any_photo_and_one_thing(clipseg, mini):
    loaded = grounding.load_clipseg(clipseg)
    for size in ((1, 1), (1, 70), (90, 60)):
        for count in (1, 2):
            found, phrases, _ = steering.word_hints(mini, torch.rand(count, 1, *size), "a red cup", loaded)
            assert found.shape == (count, 3, *size) and len(phrases) == 1
    assert steering.word_hints(mini, torch.rand(1, 1, 20, 20), "a red cup", clipseg)[0].shape == (1, 3, 20, 20)
    long = grounding.clipseg_regions(*loaded, torch.rand(1, 1, 9, 9), ["a very long name of an unknown thing"])
    assert long.shape == (1, 1, 32, 32)


def test_a_missing_clipseg_gets_a_plain_message(tmp_path, clipseg):
    with pytest.raises(ValueError, match="no complete CLIPSeg model with its tokenizer in"):
        grounding.load_clipseg(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text((clipseg / "config.json").read_text())
    with pytest.raises(ValueError, match="no complete CLIPSeg model"):
        grounding.load_clipseg(tmp_path)
