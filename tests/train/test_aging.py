"""Photos as an old film would have taken them, and the caches that hold them."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.train import aging
from seada_core.train.batches import Batches
from seada_core.train.data import build_cache, cache_recognized


class Chances:
    """A generator whose chances all come out as told, and whose ranges give the values named by their lower end."""

    def __init__(self, chance, **values):
        self.chance, self.values = chance, values

    def random(self):
        return self.chance

    def uniform(self, low, high):
        return self.values[str(low)]

    def standard_normal(self, shape, dtype):
        return np.random.default_rng(0).standard_normal(shape, dtype)


def test_colours_keep_their_hue_and_the_luminance_is_the_films():
    rgb = 0.3 + 0.4 * torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0))
    # no chance comes true at 0.9: only tone is left, here a gamma of e^0.2 between 0.1 and 0.9
    old = aging.expose(rgb, Chances(0.9, **{"-0.45": 0.2, "-0.12": 0.1, "0.85": 0.9}))
    torch.testing.assert_close(luminance(old), 0.1 + 0.8 * luminance(rgb) ** np.exp(0.2), rtol=0, atol=1e-5)
    torch.testing.assert_close(rgb_to_ycbcr(old)[1:], rgb_to_ycbcr(rgb)[1:], rtol=0, atol=1e-5)


def test_an_orthochromatic_film_hardly_sees_red():
    rgb = torch.tensor([[0.8, 0.2, 0.2], [0.2, 0.2, 0.8]]).T[:, None, :].repeat(1, 16, 8)
    plain = Chances(0.49, **{"0.3": 1e-3, "-0.45": 0.0, "-0.12": 0.0, "0.85": 1.0, "0.005": 0.0})
    gray = luminance(aging.expose(rgb, plain))
    share = 0.49
    for value, seen in zip(gray[0, 0, :2], ([0.8, 0.2, 0.2], [0.2, 0.2, 0.8])):
        panchromatic = np.dot(seen, (0.299, 0.587, 0.114))
        wanted = (1 - share) * panchromatic + share * np.dot(seen, aging.ORTHOCHROMATIC)
        assert abs(value - wanted) < 1e-4
    assert gray[0, 0, 0] < luminance(rgb)[0, 0, 0] and gray[0, 0, 1] > luminance(rgb)[0, 0, 1]


def test_blur_and_grain_scale_with_the_photo():
    x = torch.rand(2, 60, 50)
    torch.testing.assert_close(
        aging.gaussian_blur(x, 1.3)[:, 6:-6, 6:-6],
        gaussian_blur(x, [9, 9], [1.3, 1.3])[:, 6:-6, 6:-6],
        rtol=0,
        atol=1e-5,
    )
    for side in (aging.REFERENCE, 2 * aging.REFERENCE):
        flat = torch.full((3, side, side), 0.5)
        ranges = {"0.3": 1.0, "-0.45": 0.0, "-0.12": 0.0, "0.85": 1.0, "0.005": 0.03}
        grain = luminance(aging.expose(flat, Chances(0.55, **ranges)))[0] - 0.5
        assert 0.003 < grain.std() < 0.03
        scale = side // aging.REFERENCE  # grain as coarse as the photo is large: neighbours agree more
        spectrum = torch.fft.rfft2(grain).abs().pow(2)
        fine = spectrum[side // 4 : -side // 4, side // 4 :].mean() / spectrum.mean()
        assert (fine < 0.2) == (scale == 2)


def test_a_generator_gives_the_same_print_again():
    rgb = torch.rand(3, 32, 32)
    prints = [aging.expose(rgb, np.random.default_rng([3, k])) for k in (0, 0, 1)]
    assert torch.equal(prints[0], prints[1]) and not torch.equal(prints[0], prints[2])
    assert all(p.min() >= 0 and p.max() <= 1 for p in prints)


def test_the_cache_holds_latents_and_maps_of_the_view_that_is_trained_on(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(60, 190, (64, 64, 3), np.uint8)).resize((64, 64)).save(folder / f"{i}.png")

    def encoder(rgb):
        return F.avg_pool2d(torch.cat([rgb, luminance(rgb)], 1), 8)

    cache = build_cache(str(folder), tmp_path / "cache", 64, encoder, mirror=True, film_share=0.5)
    cache = cache_recognized(cache, lambda gray: [F.avg_pool2d(gray, 8), F.avg_pool2d(gray, 16)])
    old = [not torch.equal(cache.view(i, 1), cache.view(i, 0).flip(-1)) for i in range(6)]
    assert 0 < sum(old) < 6
    views = set()
    for step in range(8):
        batch = Batches(cache, 6, 64, seed=0)[step]
        torch.testing.assert_close(batch.latent, encoder(batch.rgb), rtol=0, atol=2e-3)
        maps = F.avg_pool2d(luminance(batch.rgb).expand(-1, 3, -1, -1), 8)
        torch.testing.assert_close(batch.recognized[0], maps, rtol=0, atol=2e-3)
        order = np.random.default_rng([0, step]).permutation(6)
        for index, picture in zip(order, batch.rgb):
            plain = cache.view(int(index), 0)
            views.add(
                "plain" if torch.equal(picture, plain)
                else "mirrored" if torch.equal(picture, plain.flip(-1))
                else "film"
            )  # fmt: skip
    assert views == {"plain", "mirrored", "film"}
    again = build_cache(str(folder), tmp_path / "cache", 64, encoder, mirror=True, film_share=0.5)
    assert len(again) == 6
