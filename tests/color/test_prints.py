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
