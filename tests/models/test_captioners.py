"""Captioners: decoding against naive loops and brute force, removed phrases, the training stage."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from captioning import naive_greedy, pictures
from PIL import Image
from training import make_batch

from seada_core.evaluate.sources import to_tensor
from seada_core.models.captioners.caption_text import name_thing, strip_monochrome
from seada_core.models.captioners.coca import CERTAIN, TinyCoCa, classifier_of
from seada_core.models.captioners.decoding import beam_search
from seada_core.models.classifier import class_name, recognize
from seada_core.models.tokenizer import Tokenizer
from seada_core.presets import MINI, CaptionerConfig
from seada_core.train.stages.captioning import CaptionerStage, contrastive_loss
from seada_core.weights import part_files

CAPTIONS = ["a photo of a dog", "a photo of the sea", "a church on a hill", "two boats", "a street at night, people"]
TINY = CaptionerConfig(
    image_size=32, vision_channels=(8, 16), vision_blocks=(0, 1), width=32, text_layers=1, decoder_layers=1, heads=2
)


def tiny_coca(length: int = 12) -> TinyCoCa:
    """A random TinyCoCa, its weights large enough that pictures get different captions."""
    torch.manual_seed(1)
    captioner = TinyCoCa(TINY, Tokenizer.from_captions(CAPTIONS, length, 64)).eval()
    with torch.no_grad():
        captioner.model.text_decoder.text_projection.mul_(2)
        captioner.model.visual.token_projection.weight.mul_(8)
        captioner.model.text_decoder.cross_attn[0].attn.out_proj.weight.mul_(8)
    return captioner


def test_the_model_is_open_clips_to_the_bit():
    from open_clip.coca_model import CoCa

    captioner = tiny_coca()
    tokenizer, config = captioner.tokenizer, captioner.config
    text = {"context_length": 12, "vocab_size": tokenizer.size, "width": config.width, "heads": config.heads}
    theirs = CoCa(
        config.embed_dim,
        multimodal_cfg=text | {"layers": config.decoder_layers},
        text_cfg=text | {"layers": config.text_layers, "embed_cls": True, "output_tokens": True},
        vision_cfg={"image_size": 16, "patch_size": 16, "layers": 1, "width": 64, "output_tokens": True},
        pad_id=tokenizer.pad,
    )
    theirs.visual = captioner.model.visual
    theirs.load_state_dict(captioner.model.state_dict())
    images, ids = captioner.prepare(pictures(3)), tokenizer(CAPTIONS[:3])
    for training in (False, True):
        found, expected = captioner.model.train(training)(images, ids), theirs.train(training)(images, ids)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_greedy_is_the_naive_argmax_loop():
    captioner = tiny_coca()
    prepared = captioner.prepare(pictures(6))
    found = captioner.decode(prepared)
    for (ids, score), image in zip(found, prepared):
        expected, expected_score = naive_greedy(captioner, image)
        assert ids == expected
        assert score == pytest.approx(expected_score, abs=1e-4)
    assert len({tuple(ids) for ids, _ in found}) > 1


def test_beams_never_score_below_greedy():
    captioner = tiny_coca()
    prepared = captioner.prepare(pictures(6))
    greedy = captioner.decode(prepared)
    captioner.beams = 3
    beams = captioner.decode(prepared)
    assert all(b[1] >= g[1] - 1e-5 for b, g in zip(beams, greedy))
    assert any(b[1] > g[1] + 1e-3 for b, g in zip(beams, greedy))


START, END, WORDS = 0, 1, (2, 3, 4)


def random_language(seed: int, length: int):
    """Log-probabilities of the next token for every picture and prefix, and the exhaustive best of each picture."""
    generator = torch.Generator().manual_seed(seed)
    table = {}

    def next_log_probs(tokens: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        rows = []
        for ids, picture in zip(tokens.tolist(), pictures.tolist()):
            logits = table.setdefault((picture, *ids), 2 * torch.randn(5, generator=generator))
            logits[START] = float("-inf")
            rows.append(logits.log_softmax(-1))
        return torch.stack(rows)

    def score(picture: int, ids: tuple[int, ...]) -> float:
        total = 0.0
        for t in range(1, len(ids)):
            total += next_log_probs(torch.tensor([ids[:t]]), torch.tensor([picture]))[0, ids[t]].item()
        return total / (len(ids) - 1)

    def best(picture: int) -> tuple[list[int], float]:
        ended = [(*words, END) for n in range(length - 1) for words in itertools.product(WORDS, repeat=n)]
        cut = list(itertools.product(WORDS, repeat=length - 1))
        return max(((list(s), score(picture, s)) for s in ((START, *w) for w in ended + cut)), key=lambda x: x[1])

    return next_log_probs, best


@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_is_exhaustive_search(seed):
    next_log_probs, best = random_language(seed, length=5)
    found = beam_search(next_log_probs, 2, beams=200, start=START, end=END, length=5)
    for picture, (ids, score) in enumerate(found):
        expected, expected_score = best(picture)
        assert ids == expected
        assert score == pytest.approx(expected_score, abs=1e-5)


def test_more_beams_do_not_hide_the_greedy_caption():
    for seed in range(20):
        next_log_probs, _ = random_language(seed, length=6)
        one, two = (
            beam_search(next_log_probs, 1, beams=beams, start=START, end=END, length=6)[0][1] for beams in (1, 2)
        )
        assert two >= one


def test_beam_search_refuses_no_beams():
    with pytest.raises(ValueError, match="beams >= 1"):
        beam_search(random_language(0, 3)[0], 1, beams=0, start=START, end=END, length=3)


@pytest.mark.parametrize("beams", [1, 3])
def test_batch_equals_one_by_one(beams):
    captioner = tiny_coca()
    captioner.beams = beams
    images = pictures(5)
    together = captioner(images)
    assert together == [captioner(image[None])[0] for image in images]
    assert all(isinstance(text, str) for text in together) and len(together) == 5


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (300, 40)])
def test_any_picture_size(size):
    assert len(tiny_coca()(pictures(2, *size))) == 2


def test_tiny_coca_does_not_depend_on_contrast():
    captioner = tiny_coca()
    gray = pictures()[:, :1].expand(-1, 3, -1, -1)
    gray = 0.3 + 0.4 * gray  # away from 0 and 1, where resampling would clip
    faded = 0.2 + 0.5 * gray
    torch.testing.assert_close(captioner.prepare(faded), captioner.prepare(gray), atol=1e-3, rtol=1e-3)


def test_wrong_picture_shape():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        tiny_coca()(torch.rand(3, 32, 32))


def test_tiny_coca_needs_a_compact_vocabulary():
    with pytest.raises(ValueError, match="compact vocabulary"):
        TinyCoCa(TINY, Tokenizer(32))


def test_a_classifier_as_image_encoder_takes_pictures_or_its_own_maps():
    torch.manual_seed(0)
    config = replace(TINY, recognition=True, image_size=64)
    captioner = TinyCoCa(config, Tokenizer.from_captions(CAPTIONS, 12, 64)).eval()
    prepared = captioner.prepare(pictures())
    assert prepared.shape == (4, 3, 64, 64) and torch.equal(prepared[:, 0], prepared[:, 2])
    tower = captioner.model.visual
    pooled, tokens = tower(prepared)
    assert pooled.shape == (4, config.embed_dim) and tokens.shape == (4, 1 + 4, config.width)
    with torch.no_grad():
        maps = tower.classifier(prepared)[-1]
    torch.testing.assert_close(tower(maps)[1], tokens)
    stage = CaptionerStage(captioner).eval()  # whether the maps are known or not, the loss is the same
    batch = make_batch(pictures(4, 64, 64), captions=CAPTIONS[:4])
    known = tower.classifier(captioner.prepare(batch.rgb))
    torch.testing.assert_close(stage(replace(batch, recognized=known))["loss"], stage(batch)["loss"])
    assert not any("classifier" in name for name, _ in captioner.named_parameters())


def test_mini_fits_eleven_megabytes():
    captioner = TinyCoCa(MINI.captioner, Tokenizer(32, range(3537)))
    assert sum(tensor.numel() for tensor in captioner.state_dict().values()) * 2 <= 11e6


def test_state_dict_restores_the_captioner():
    captioner = tiny_coca()
    restored = TinyCoCa(TINY, captioner.tokenizer).eval()
    restored.load_state_dict(captioner.state_dict())
    assert restored(pictures()) == captioner(pictures())


# --- text -------------------------------------------------------------------------------------------------------------


STRIPPED = {
    "a black and white photo of a dog": "a photo of a dog",
    "A black and white photo of a dog": "A photo of a dog",
    "a black-and-white photograph of a street": "a photograph of a street",
    "black and white photo of a dog": "photo of a dog",
    "Black and white photo of a dog": "Photo of a dog",
    "a black & white picture of a man": "a picture of a man",
    "a b&w photo of a man": "a photo of a man",
    "a B/W image of a man": "an image of a man",
    "a black and white image of a church": "an image of a church",
    "an old black and white photo of a church": "an old photo of a church",
    "a vintage, black and white photo of a church": "a vintage photo of a church",
    "a black and white vintage photo of a car": "a vintage photo of a car",
    "a black and white aerial view of a city": "an aerial view of a city",
    "a monochrome photo of a bridge": "a photo of a bridge",
    "a monochromatic image of a bridge": "an image of a bridge",
    "a grayscale photo of a bridge": "a photo of a bridge",
    "a greyscale picture of a bridge": "a picture of a bridge",
    "a gray scale picture of a bridge": "a picture of a bridge",
    "a sepia photo of a bridge": "a photo of a bridge",
    "a sepia-toned photograph of soldiers": "a photograph of soldiers",
    "a sepia toned old photograph of soldiers": "an old photograph of soldiers",
    "there is a black and white photo of a man": "there is a photo of a man",
    "this is a black and white photo of a man": "this is a photo of a man",
    "it's a black and white photo": "it's a photo",
    "a black and white photo": "a photo",
    "black and white": "",
    "a photo of a dog in black and white": "a photo of a dog",
    "a photo of a man in black and white": "a photo of a man",
    "a city street in black and white": "a city street",
    "a city street shown in black and white": "a city street",
    "a man photographed in black and white": "a man",
    "a beach in grayscale": "a beach",
    "a beach in sepia tones": "a beach",
    "a photo of a lighthouse in black and white on a hill": "a photo of a lighthouse on a hill",
    "In black and white, a dog runs": "A dog runs",
    "a dog on a beach, black and white": "a dog on a beach",
    "a dog on a beach, black and white photo": "a dog on a beach",
    "a dog on a beach, black and white photography": "a dog on a beach",
    "black and white, a dog on a beach": "a dog on a beach",
    "a dog on a beach (black and white)": "a dog on a beach",
    "a dog on a beach. the photo is black and white.": "a dog on a beach.",
    "a dog on a beach. The image is in black and white": "a dog on a beach",
    "a man and a woman in a black and white photo": "a man and a woman in a photo",
    "a black and white photo of a black and white cat": "a photo of a black and white cat",
    "two black and white photos of a dog": "two photos of a dog",
    "a black and white drawing of a horse": "a drawing of a horse",
    "a black and white portrait of an old woman": "a portrait of an old woman",
}
KEPT = [
    "a black and white cat",
    "a photo of a black and white cat",
    "a black and white cat sitting on a chair",
    "a black and white striped shirt",
    "a man in a black and white striped shirt",
    "a woman dressed in black and white",
    "a man in black and white",
    "a referee in black and white",
    "two people dressed in black and white on a beach",
    "a black and white cow in a field",
    "a herd of black and white cows",
    "a zebra with black and white stripes",
    "a photo of a man in a black and white shirt",
    "a woman in a black and white dress",
    "a black and white checkered floor",
    "a bathroom with black and white tiles",
    "a woman standing next to a black and white picture frame",
    "a black and white photo frame on a table",
    "a man in a black and white photo booth",
    "a wall painted in black and white",
    "a vintage photo of a car",
    "an old photo of a house",
    "a black dog and a white cat",
    "a black car and white truck",
    "a white and black dog",
    "a man in a black suit and a white shirt",
    "a photo of a panda",
    "a black and white penguin on ice",
    "a soccer player in black and white stripes",
    "a monochrome monitor on a desk",
    "a photo of the sea",
    "a photo of mountains, alp",
    "a black and white soccer ball",
    "",
    "a photo of a player wearing black and white",
    "a photo of an English springer",
    "a girl holding a black and white umbrella",
    "a photo of a person painted in black and white",
    "a gray horse",
    "a white horse in black mud",
]


@pytest.mark.parametrize("text", STRIPPED)
def test_monochrome_phrases_are_removed(text):
    assert strip_monochrome(text) == STRIPPED[text]
    assert strip_monochrome(STRIPPED[text]) == STRIPPED[text]


@pytest.mark.parametrize("text", KEPT)
def test_black_and_white_things_are_kept(text):
    assert strip_monochrome(text) == text


def test_captioner_strips_its_captions():
    captioner = tiny_coca()
    captioner.tokenizer = Tokenizer.from_captions(["a black and white photo of a dog"], 12, 64)
    captioner.decode = lambda images: [(captioner.tokenizer(["a black and white photo of a dog"])[0].tolist(), 0.0)]
    assert captioner(pictures(1)) == ["a photo of a dog"]


# --- training ---------------------------------------------------------------------------------------------------------


def test_contrastive_loss_shares_equal_captions():
    """Against a loop over pairs; rows 0 and 2 have the same caption."""
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(3, 8), dim=-1) for _ in range(2))
    text = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2]])
    expected = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(3):
            same = [j for j in range(3) if text[i].tolist() == text[j].tolist()]
            exps = [torch.exp(10 * x[i] @ y[j]) for j in range(3)]
            expected -= sum(torch.log(exps[j] / sum(exps)) for j in same) / len(same) / 6
    torch.testing.assert_close(contrastive_loss(a, b, text, torch.tensor(10.0)), expected)


def test_stage_overfits_eight_pictures():
    torch.manual_seed(0)
    words = ["dog", "cat", "church", "horse", "boat", "street", "forest", "chair"]
    captions = [f"a photo of a {word}" for word in words]
    tokenizer = Tokenizer.from_captions(captions, 12, 64)
    stage = CaptionerStage(TinyCoCa(TINY, tokenizer)).train()
    assert set(stage.parts()) == {"captioner"}
    coarse = torch.rand(8, 3, 4, 4)
    rgb = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(0, 1)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)  # else the last steps' noise decides
    first = None
    for step in range(120):
        losses = stage(make_batch(rgb, captions=captions, seeds=range(8 * step, 8 * step + 8)))
        first = first or {name: loss.item() for name, loss in losses.items()}
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(losses["loss"], losses["contrastive"] + 2 * losses["caption"])
    assert losses["caption"] < 0.5 * first["caption"]
    assert all(p.grad is not None for p in stage.parameters())
    stage.eval()
    assert stage.captioner(rgb) == captions


@pytest.mark.parametrize(
    ("caption", "thing", "expected"),
    [
        ("a photo of a cat", "tabby cat", "a photo of a tabby cat"),
        ("a photo", "umbrella", "a photo of an umbrella"),
        ("", "sunglasses", "a photo of sunglasses"),
        ("a photo of a Tabby cat on a sofa", "tabby cat", "a photo of a Tabby cat on a sofa"),
        ("a man rides a horse", "sorrel horse", "a man rides a horse, sorrel horse"),
        ("a photo of a car", "bus", "a photo of a bus"),
        ("a photo of a car", "cypress", "a photo of a cypress"),
    ],
)
def test_a_certain_class_becomes_part_of_the_caption(caption, thing, expected):
    assert name_thing(caption, thing) == expected


def test_the_embedded_captioner_names_what_its_classifier_is_certain_of():
    captioner = part_files.load_part(part_files.EMBEDDED / "captioner.safetensors", "captioner")[0]
    classifier = classifier_of(captioner)
    cup = to_tensor(Image.open(Path(__file__).parents[2] / "samples" / "photo.jpg").convert("L")).expand(3, -1, -1)
    photos = torch.stack([cup, torch.full_like(cup, 0.5)])
    probable, best = recognize(classifier, photos[:, :1]).max(1)
    assert probable[0] > CERTAIN > probable[1]
    sure, unsure = captioner(photos)
    assert class_name(int(best[0])) in sure
    assert class_name(int(best[1])) not in unsure
