"""Frames, pages and extreme shapes: photos keep the colours that they have alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core import Colorizer, Hint, pages, windows
from seada_core.options import ColorizeOptions


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return Colorizer.from_pretrained(str(tiny_model), "cpu")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(60, 220, (6, 6), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def page() -> tuple[np.ndarray, list[pages.Box]]:
    whole = np.full((260, 420), 250, np.uint8)
    boxes = [pages.Box(30, 20, 150, 180), pages.Box(40, 220, 230, 400)]
    for k, box in enumerate(boxes):
        box.of(whole)[:] = photo(box.bottom - box.top, box.right - box.left, k)
    return whole, boxes


def test_photos_on_a_page_are_as_alone_and_the_rest_is_neutral(tiny):
    whole, boxes = page()
    assert pages.photos(whole) == boxes
    options = ColorizeOptions(prompt="a dog", steps=1, hints=(Hint(40, 50, "#a03020", 4), Hint(300, 100, "#2030a0", 4)))
    result = np.asarray(tiny(Image.fromarray(whole), options))
    tensor = tiny(torch.from_numpy(whole)[None].float() / 255, options)
    alone = [
        np.asarray(
            tiny(Image.fromarray(box.of(whole)), options, hints=[Hint(h.x - box.left, h.y - box.top, h.color, 4)])
        )
        for box, h in zip(boxes, options.hints)
    ]
    neutral = np.ones(whole.shape, bool)
    for box, one in zip(boxes, alone):
        np.testing.assert_array_equal(box.of(result), one)
        assert np.ptp(one.astype(int), axis=-1).max() > 10
        box.of(neutral)[:] = False
    np.testing.assert_array_equal(result[neutral], np.repeat(whole[neutral][:, None], 3, 1))
    assert np.abs((tensor * 255).round().permute(1, 2, 0).numpy() - result).max() <= 1
    with pytest.raises(ValueError, match="outside the photo"):
        tiny(Image.fromarray(whole), options, hints=[Hint(500, 20, "#ffffff")])


def test_a_frame_in_the_command(run, tmp_path):
    whole, boxes = page()
    Image.fromarray(whole).save(tmp_path / "page.png")
    Image.fromarray(whole.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    status, out, err = run(tmp_path, "-o", tmp_path / "out", "--steps", 1, "--batch", 2)
    assert (status, len(out), len(err)) == (0, 2, 2)
    assert "it shows 2 photos on a page, each of which is coloured as if it were alone" in err[0]
    eight = np.asarray(Image.open(tmp_path / "out" / "page.png")).astype(int)
    deep = np.asarray(Image.open(tmp_path / "out" / "deep.png")).astype(int)
    assert np.abs(eight - deep).max() <= 1
    assert np.ptp(eight, axis=-1)[:20].max() == 0 < np.ptp(eight, axis=-1).max()
    for k, box in enumerate(boxes):
        Image.fromarray(box.of(whole)).save(tmp_path / f"{k}.png")
        run(tmp_path / f"{k}.png", "--steps", 1)
        np.testing.assert_array_equal(box.of(eight), np.asarray(Image.open(tmp_path / f"{k}-color.png")))


# --- extreme shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 800), (800, 40), (64, 384), (90, 400)])
def test_windows_cover_a_long_photo_from_end_to_end(height, width):
    side, long = min(height, width), max(height, width)
    for scale in (1.0, 2.0, 0.37):
        found = windows.spans(long, side, scale)
        assert found[0] == (0, 0) and found[-1][0] == long - side
        assert found[-1][1] + round(side * scale) == round(long * scale)
        steps = np.diff([start for start, _ in found])
        assert steps.max() <= side * (1 - windows.OVERLAP) + 1 and steps.min() > 0
        assert len(found) % 2 == 1 and abs(found[len(found) // 2][0] - (long - side) / 2) <= 0.5
    assert windows.is_elongated((height, width)) and not windows.is_elongated((100, 300))
    assert not windows.is_elongated((1, 800))


@pytest.mark.parametrize("upright", [False, True])
def test_the_ends_of_a_strip_are_as_their_own_squares(tiny, upright):
    gray = torch.from_numpy(photo(64, 512)).float()[None, None] / 255
    turned = gray.transpose(-1, -2) if upright else gray
    calls = []
    options = ColorizeOptions(prompt="a dog", steps=1)
    chroma = tiny.chroma(turned, options, callback=lambda done, steps: calls.append((done, steps)))
    assert calls[-1][0] == calls[-1][1] == len(calls)
    square = turned[..., :64, :64]
    alone = tiny.chroma(square, options)
    assert chroma.shape[-1 if not upright else -2] == 8 * alone.shape[-1]
    edge = alone.shape[-1] // 3 - 1  # where no other window reaches
    part = chroma[..., :edge, :] if upright else chroma[..., :edge]
    own = alone[..., :edge, :] if upright else alone[..., :edge]
    assert (part - own).abs().max() < 1e-4
    assert alone.abs().max() > 0.02


def test_one_window_of_other_colours_does_not_change_a_strip(tiny, monkeypatch):
    gray = torch.from_numpy(photo(64, 512)).float()[None, None] / 255
    odd, seen = 0, []

    def flat(self, gray, options=None, **more):
        if gray.shape[-1] > gray.shape[-2]:
            return windows.in_windows(self, gray, options, None)
        maps = torch.full((len(gray), 2, 64, 64), 0.1)
        for k in range(len(gray)):
            seen.append(k)
            if len(seen) - 1 == odd:
                maps[k] = -0.2
        return maps

    monkeypatch.setattr(Colorizer, "chroma", flat)
    options = ColorizeOptions(prompt="a dog", steps=1)
    count = len(windows.spans(512, 64, 1.0))
    for odd, share in ((count // 4, 0.02), (count // 2, 0.125)):  # noqa: B007 (read by `flat`)
        seen.clear()
        colors = tiny.chroma(gray, options)
        changed = float(((colors - 0.1).abs() > 0.05).any(1).float().mean())
        assert len(seen) == count and abs(changed - share) < 0.035


def test_windows_share_one_prompt_and_their_hints(tiny, monkeypatch):
    gray = torch.from_numpy(photo(64, 320)).float()[None, None] / 255
    monkeypatch.setattr(Colorizer, "caption", lambda self, gray: ["a lake"] * len(gray))
    seen, chroma = [], Colorizer.chroma

    def record(self, gray, options=None, **more):
        seen.extend(options.prompt if isinstance(options.prompt, tuple) else [options.prompt])
        return chroma(self, gray, options, **more)

    monkeypatch.setattr(Colorizer, "chroma", record)
    options = ColorizeOptions(steps=1, hints=(Hint(300, 20, "#e02010", 6),))
    hinted = tiny.chroma(gray, options)
    plain = tiny.chroma(gray, ColorizeOptions(steps=1))
    assert set(seen) == {"a lake", None}  # None where the whole photo is handed in
    hinted = torch.nn.functional.interpolate(hinted, plain.shape[-2:], mode="bilinear")
    change = (hinted - plain).abs().amax((0, 1))
    cells = plain.shape[-1]
    assert change[:, int(cells * 0.9) :].max() > 0.1 > change[:, : cells // 2].max()
