"""What the model sees of old prints: without grain, screens and fading; clean photos stay exactly as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core import Colorizer
from seada_core.color import prints
from seada_core.color.sizes import diffusion_size, resize


def seen(values: np.ndarray) -> torch.Tensor:
    """A photo (H, W), uint8, at the embedded model's size."""
    gray = torch.tensor(values, dtype=torch.float32)[None, None] / 255
    return resize(gray, diffusion_size(values.shape, 192))


@pytest.fixture(scope="module")
def photos(data_dir) -> list[np.ndarray]:
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png")) + sorted(
        (data_dir / "test" / "historical").glob("*.jpg")
    )
    return [np.asarray(Image.open(path).convert("L")) for path in paths]


def test_clean_photos_are_not_changed(photos):
    for photo in photos:
        small = seen(photo)
        assert torch.equal(prints.restored(small), small)


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.1])
def test_noise_is_measured(photos, sigma):
    clean = seen(photos[4])
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert prints.noise(noisy) == pytest.approx(sigma, rel=0.25)


def test_grain_is_removed(photos):
    rng = np.random.default_rng(0)
    for photo in photos[:24:4]:
        small = seen(np.clip(photo + rng.normal(0, 30, photo.shape), 0, 255).astype(np.uint8))
        clean, restored = seen(photo), prints.restored(small)
        assert prints.noise(restored) < 0.35 * prints.noise(small)
        assert np.corrcoef(restored.flatten(), clean.flatten())[0, 1] > 0.8  # and the photo is still there


def halftone(photo: np.ndarray, period: float, degrees: float) -> np.ndarray:
    """Black dots, `period` px apart, on rows turned by `degrees`."""
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    along, across = x * cos + y * sin, y * cos - x * sin
    screen = (np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)) / 2
    return np.where(photo / 127.5 - 1 > screen, 245, 15).astype(np.uint8)


@pytest.mark.parametrize(("period", "degrees"), [(7, 45), (9, 0), (12, 30), (18, 15)])
def test_a_screen_is_found_and_removed(photos, period, degrees):
    for photo in photos[1:24:8]:
        small = seen(halftone(photo, period, degrees))
        (y, x), (v, u) = prints.screen(small)
        frequency = photo.shape[0] / small.shape[-2] / period
        assert [np.hypot(y, x), np.hypot(v, u)] == pytest.approx([frequency] * 2, rel=0.06)
        assert abs(y * v + x * u) < 0.1 * frequency**2
        turned = np.rad2deg(np.arctan2(y, x)) - degrees
        assert abs((turned + 45) % 90 - 45) < 6
        restored = prints.restored(small)
        clean = seen(photo).flatten()
        before, after = (np.corrcoef(x.flatten(), clean)[0, 1] for x in (small, restored))
        assert after > max(0.8, before + 0.1)


def test_photos_and_grain_have_no_screen(photos):
    for k, photo in enumerate(photos[::5]):
        noisy = photo + np.random.default_rng(k).normal(0, 25, photo.shape)
        for values in (photo, np.clip(noisy, 0, 255).astype(np.uint8)):
            assert prints.screen(seen(values)) is None
    assert prints.screen(torch.full((1, 1, 64, 64), 0.5)) is None


def test_faded_tones_are_stretched(photos):
    for photo in photos[:24:4]:
        restored = prints.restored(seen((110 + photo * 0.35).astype(np.uint8)))
        low, high = np.percentile(restored.numpy(), (1, 99))
        assert low == pytest.approx(prints.DARKEST, abs=0.02) and high == pytest.approx(prints.LIGHTEST, abs=0.02)
        assert np.corrcoef(restored.flatten(), seen(photo).flatten())[0, 1] > 0.99
    plain = torch.full((1, 1, 64, 64), 0.5)
    assert torch.equal(prints.restored(plain), plain)


def test_each_photo_of_a_batch_is_as_alone(photos):
    faded = seen((110 + photos[0][:300, :300] * 0.35).astype(np.uint8))
    clean = seen(photos[1][:300, :300])
    together = prints.restored(torch.cat([faded, clean]))
    assert torch.equal(together[:1], prints.restored(faded)) and torch.equal(together[1:], clean)


def test_the_luminance_that_goes_out_is_the_photos_own(tiny_model, photos):
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    photo = Image.fromarray((110 + photos[0][:120, :160] * 0.35).astype(np.uint8))
    result = colorizer(photo, prompt="a dog", steps=1)
    difference = np.asarray(result.convert("L")).astype(int) - np.asarray(photo)
    assert np.abs(difference).max() <= 1
    assert np.ptp(np.asarray(result).astype(int), axis=-1).max() > 5
