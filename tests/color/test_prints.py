"""What the model sees of old prints: without screens and fading; clean and grainy photos stay exactly as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core import Colorizer
from seada_core.color import prints
from seada_core.color.sizes import diffusion_size, resize

CPU = torch.device("cpu")


def as_photo(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None] / 255


def seen(values: np.ndarray) -> torch.Tensor:
    """A photo (H, W), uint8, at the embedded model's size."""
    return resize(as_photo(values), diffusion_size(values.shape, 192))


def restored(values: np.ndarray) -> torch.Tensor:
    return prints.restored(as_photo(values), diffusion_size(values.shape, 192), CPU)


@pytest.fixture(scope="module")
def photos(data_dir) -> list[np.ndarray]:
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png")) + sorted(
        (data_dir / "test" / "historical").glob("*.jpg")
    )
    return [np.asarray(Image.open(path).convert("L")) for path in paths]


def test_clean_and_grainy_photos_are_not_changed(photos):
    for k, photo in enumerate(photos[::2]):
        assert torch.equal(restored(photo), seen(photo))
        if k % 4 == 0:
            grainy = np.clip(photo + np.random.default_rng(k).normal(0, 25, photo.shape), 0, 255).astype(np.uint8)
            assert torch.equal(restored(grainy), seen(grainy))


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.1])
def test_noise_is_measured(photos, sigma):
    clean = seen(photos[4])
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert prints.noise(noisy) == pytest.approx(sigma, rel=0.25)


def halftone(photo: np.ndarray, period: float, degrees: float) -> np.ndarray:
    """Black dots, `period` px apart, on rows turned by `degrees`."""
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    along, across = x * cos + y * sin, y * cos - x * sin
    screen = (np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)) / 2
    return np.where(photo / 127.5 - 1 > screen, 245, 15).astype(np.uint8)


@pytest.mark.parametrize(("period", "degrees"), [(5, 45), (7, 45), (9, 0), (12, 30), (18, 15)])
def test_a_screen_is_found_and_removed(photos, period, degrees):
    for photo in photos[1:24:8]:
        printed = halftone(photo, period, degrees)
        fine = resize(as_photo(printed), diffusion_size(photo.shape, 384))
        assert prints.screen(fine) == pytest.approx(period * fine.shape[-2] / photo.shape[0], rel=0.03)
        clean = seen(photo).flatten()
        before, after = (np.corrcoef(x.flatten(), clean)[0, 1] for x in (seen(printed), restored(printed)))
        assert after > max(0.75, before + 0.2)


def test_fine_dots_leave_no_moire():
    ramp = np.linspace(60, 220, 768)[None].repeat(512, 0).astype(np.uint8)
    for period, degrees in ((3.3, 45), (3.8, 20)):  # 1.2 and 1.4 px at the size that is diffused
        printed = halftone(ramp, period, degrees)
        before, after = (float((x - seen(ramp)).std()) for x in (seen(printed), restored(printed)))
        assert before > 0.05 and after < 0.6 * before


def test_faded_tones_are_stretched(photos):
    for photo in photos[:24:4]:
        stretched = restored((110 + photo * 0.35).astype(np.uint8))
        low, high = np.percentile(stretched.numpy(), (1, 99))
        assert low == pytest.approx(prints.DARKEST, abs=0.02) and high == pytest.approx(prints.LIGHTEST, abs=0.02)
        assert np.corrcoef(stretched.flatten(), seen(photo).flatten())[0, 1] > 0.99
    plain = np.full((64, 64), 128, np.uint8)
    assert torch.equal(restored(plain), seen(plain))


def test_photos_of_any_size_are_restored():
    for shape in ((1, 1), (1, 40), (17, 16), (30, 200), (64, 900)):
        values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        found = restored(values)
        assert found.shape[-2:] == diffusion_size(shape, 192) and found.isfinite().all()


def test_each_photo_of_a_batch_is_as_alone(photos):
    printed, clean = halftone(photos[0][:300, :300], 8, 45), photos[1][:300, :300]
    both = torch.cat([as_photo(printed), as_photo(clean)])
    together = prints.restored(both, (192, 192), CPU)
    assert torch.equal(together[:1], restored(printed)) and torch.equal(together[1:], seen(clean))
    assert not torch.equal(together[:1], seen(printed))


def test_the_luminance_that_goes_out_is_the_photos_own(tiny_model, photos):
    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    photo = Image.fromarray((110 + photos[0][:120, :160] * 0.35).astype(np.uint8))
    result = colorizer(photo, prompt="a dog", steps=1)
    difference = np.asarray(result.convert("L")).astype(int) - np.asarray(photo)
    assert np.abs(difference).max() <= 1
    assert np.ptp(np.asarray(result).astype(int), axis=-1).max() > 5
