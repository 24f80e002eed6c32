"""Hints by affinity: shares against loops, hints of all kinds, and what the embedded model does with a click."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color.spaces import luminance
from seada_core.hints import affinity as by_affinity
from seada_core.hints.affinity import Affinities, embedded_size, follow_hints, hint_cells
from seada_core.models.affinity import Affinity
from seada_core.models.efficientnet import EfficientNetLite0
from seada_core.pipeline import Colorizer
from seada_core.presets import AffinityConfig

SMALL = AffinityConfig(width=16, heads=2, dims=4, stem=8, size=32)


@pytest.fixture(scope="module")
def affinities():
    torch.manual_seed(0)
    network = Affinity(SMALL).eval()
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return Affinities(network, EfficientNetLite0().eval())


def grays(count: int, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_shares_are_attention_written_out(affinities):
    network = affinities.affinity
    embedded = network.embed(grays(1), affinities.classifier)
    e, none, mixed = (x[0].double() for x in embedded)
    places = [(2, 3), (11, 15), (0, 0)]
    shares = network.shares(embedded, torch.tensor([places]), torch.ones(1, 3, dtype=torch.bool))[0]
    weights = network.log_distance_weight.exp().tolist()
    for y, x in ((0, 0), (2, 3), (7, 9)):
        expected = [0.0] * 3
        heads = mixed[:, y, x].softmax(0).tolist()
        for k in range(SMALL.heads):
            logits = [
                -float((e[k, :, y, x] - e[k, :, i, j]).square().sum()) / SMALL.dims**0.5
                - weights[k] * math.hypot(y - i, x - j) / min(e.shape[-2:])
                for i, j in places
            ]
            total = sum(map(math.exp, logits)) + math.exp(float(none[k, y, x]))
            for n, logit in enumerate(logits):
                expected[n] += heads[k] * math.exp(logit) / total
        assert shares[:, y, x].tolist() == pytest.approx(expected, abs=1e-3)
    assert (shares >= 0).all() and (shares.sum(0) <= 1 + 1e-5).all()


@torch.no_grad()
def test_a_batch_gives_the_same_as_its_pictures_one_by_one(affinities):
    gray, chroma = grays(3), 0.1 * torch.randn(3, 2, 48, 64, generator=torch.Generator().manual_seed(2))
    hints = torch.zeros(3, 3, 48, 64)
    hints[0, :, 10, 10] = torch.tensor([0.2, -0.1, 1])
    hints[2, :, 5:20, 30:50] = torch.tensor([-0.1, 0.2, 1])[:, None, None]
    together = follow_hints(chroma, gray, hints, None, affinities)
    for i in range(3):
        alone = follow_hints(chroma[i : i + 1], gray[i : i + 1], hints[i : i + 1], None, affinities)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together[1:2], follow_hints(chroma, gray, None, hints * 0, affinities)[1:2])  # no hint


def test_cells_of_hints_are_thinned_out_evenly():
    hints = torch.zeros(2, 3, 40, 40)
    hints[0, 2] = 1
    hints[1, :, 3, 4] = torch.tensor([0.1, 0.2, 1])
    places, chroma, valid = hint_cells(hints, 100)
    assert valid.sum(1).tolist() == [100, 1] and places[1, 0].tolist() == [3, 4]
    assert chroma[1, 0].tolist() == pytest.approx([0.1, 0.2])
    assert np.bincount(places[0, :, 0]).min() >= 1  # from every row
    assert hint_cells(torch.zeros(1, 3, 4, 4))[2].sum() == 0


def test_embedded_sizes():
    assert embedded_size((480, 854), 160) == (160, 288)
    assert embedded_size((3000, 100), 160) == (640, 16)
    assert embedded_size((1, 100_000), 160) == (16, 640)
    assert embedded_size((1, 1), 160) == (160, 160)


@torch.no_grad()
def test_a_thing_without_a_score_has_no_region(affinities):
    gray, score = grays(2), torch.zeros(2, 1, 6, 8)
    score[1, 0, 3, 3] = 0.9
    region = affinities.region(gray, score, affinities.embed(gray))
    assert region.shape == gray.shape and region[0].max() == 0
    assert region[1].min() >= 0 and region[1].max() <= 1


def test_a_click_on_an_object_stays_on_it(data_dir):
    """The change inside the objects' masks is more than three times that far from them, in the mean of four photos."""
    folder = data_dir / "test" / "objects"
    if not folder.is_dir():
        pytest.skip("no pictures with masks of objects beside the repository")
    colorizer = Colorizer.from_pretrained("mini", "cpu")
    affinities = by_affinity.affinities_of(colorizer.has, colorizer.part)
    ratios = []
    for name in ("dog-00", "blackswan-00", "scooter-black-00", "camel-00"):
        rgb = torch.from_numpy(np.array(Image.open(folder / f"{name}.jpg").convert("RGB").resize((428, 240))))
        gray = luminance(rgb.movedim(-1, 0)[None].float() / 255)
        mask = np.array(Image.open(folder / f"{name}.png").convert("L").resize((428, 240))) > 127
        rows, columns = np.nonzero(mask)
        y, x = int(np.median(rows)), int(np.median(columns[rows == int(np.median(rows))]))
        hints = torch.zeros(1, 3, 240, 428)
        hints[0, :, y - 2 : y + 3, x - 2 : x + 3] = torch.tensor([0.2, -0.15, 1])[:, None, None]
        change = affinities.correction(torch.zeros(1, 2, 240, 428), gray, hints)[0].norm(dim=0).numpy()
        ratios.append((change[mask].mean(), change[~mask].mean()))
    inside, outside = np.mean(ratios, axis=0)
    assert inside > 3 * outside > 0


@torch.no_grad()
def test_hints_are_exact_where_they_are(affinities):
    gray = torch.full((1, 1, 48, 64), 0.5)
    hints = torch.zeros(1, 3, 48, 64)
    hints[0, :, 20:24, 30:34] = torch.tensor([0.1, -0.12, 1])[:, None, None]
    found = follow_hints(torch.zeros(1, 2, 48, 64), gray, hints, None, affinities)
    assert (found[0, :, 21:23, 31:33] - hints[0, :2, 21:23, 31:33]).abs().max() < 0.005
