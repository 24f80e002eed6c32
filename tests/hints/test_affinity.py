"""Hints by affinity: shares against loops, hints of all kinds, and what the embedded model does with a click."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color.spaces import luminance
from seada_core.files.hint_format import KEEP, Hint
from seada_core.hints import affinity as by_affinity
from seada_core.hints.affinity import Affinities, affinities_of, embedded_size, follow_hints, hint_cells, with_kept
from seada_core.hints.maps import hint_map
from seada_core.models.affinity import Affinity
from seada_core.models.efficientnet import EfficientNetLite0
from seada_core.models.people import WORN
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
    places, values, valid = hint_cells(hints, 100)
    assert valid.sum(1).tolist() == [100, 1] and places[1, 0].tolist() == [3, 4]
    assert values[1, 0].tolist() == pytest.approx([0.1, 0.2, 1])
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
    region = affinities.region(gray, score, affinities.look(gray))
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


# --- how far hints spread, and places that keep their colour ---------------------------------------------------------


def test_clothes_skin_and_hair_are_told_apart_and_what_may_be_two_of_them_differs_from_nothing():
    """Against the likeliest other kind, for each kind that a place alone can be, written out."""
    body = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    places = torch.tensor([[[0, 0], [3, 4]], [[1, 2], [2, 2]]])
    found = by_affinity._differs(body, places)
    for b in range(2):
        for n, (y, x) in enumerate(places[b].tolist()):
            for i in range(4):
                for j in range(5):
                    expected = 0.0
                    for p in range(3):
                        others = [q for q in range(3) if q != p]
                        alone = body[b, p, y, x] * (1 - max(body[b, q, y, x] for q in others))
                        expected += float(alone * max(body[b, q, i, j] for q in others))
                    assert float(found[b, n, i, j]) == pytest.approx(expected, abs=1e-5)
                    assert found[b, n, i, j] <= 1
    logits = torch.full((1, len(WORN), 1, 4), -20.0)
    for cell, kind in enumerate(("skin", "hair", "dress")):
        logits[0, WORN.index(kind), 0, cell] = 0
    logits[0, WORN.index("skin"), 0, 3] = logits[0, WORN.index("dress"), 0, 3] = 0  # one as likely as the other
    seen = by_affinity._body(torch.full((1, 1, 1, 4), 9.0), logits)
    assert torch.allclose(seen[0, :, 0].mT, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]), atol=1e-2)
    assert not by_affinity._body(torch.full((1, 1, 1, 4), -9.0), logits).round(decimals=2).any()  # nobody there
    from_doubtful, from_dress = by_affinity._differs(seen, torch.tensor([[[0, 3], [0, 2]]]))[0]
    assert not from_doubtful.round(decimals=1).any()
    assert torch.allclose(from_dress[0], torch.tensor([1.0, 1, 0, 1]), atol=1e-2)


class ReachesNothing(Affinities):
    """A part for which every hint stays where it is."""

    __slots__ = ()

    def correction(self, chroma, gray, hint_map, seen=None):
        return torch.zeros_like(chroma)


def test_a_click_on_a_highlight_tints_nothing_that_merely_looks_like_it():
    """White cannot show the asked red, what lies around it could."""
    gray = torch.full((1, 1, 48, 64), 0.95)
    gray[..., 20:28, 20:28] = 0.99
    chroma = follow_hints(
        torch.zeros(1, 2, 48, 64), gray, drawn(Hint(24, 24, "#c02020", radius=2)), None, ReachesNothing(None, None)
    )
    at_click = chroma[0, :, 24, 24]
    assert 0 < at_click.norm() < 0.03  # as much as white can show
    assert chroma.norm(dim=1).max() < at_click.norm() + 1e-3


def drawn(*hints: Hint) -> torch.Tensor:
    return hint_map(hints, (48, 64), (48, 64))


@torch.no_grad()
def test_a_hint_spreads_as_asked_and_is_exact_at_its_place(affinities):
    gray, grey = 0.4 + 0.2 * grays(1), torch.zeros(1, 2, 48, 64)
    changes = {}
    for spread in (-1, 0, 1):
        hints = drawn(Hint(20, 20, "#a04040", 3, spread))
        found = follow_hints(grey, gray, hints, None, affinities)
        assert (found[0, :, 20, 20] - hints[0, :2, 20, 20]).abs().max() < 0.01
        changes[spread] = affinities.correction(grey, gray, hints).abs().sum()
    assert changes[-1] < 0.9 * changes[0] < 0.8 * changes[1]
    plain = torch.cat([drawn(Hint(20, 20, "#a04040", 3)), torch.zeros(1, 2, 48, 64)], 1)
    assert torch.equal(
        follow_hints(grey, gray, plain, None, affinities), follow_hints(grey, gray, plain[:, :3], None, affinities)
    )


@torch.no_grad()
def test_a_lock_keeps_the_models_colour_and_takes_its_surroundings_from_other_hints(affinities):
    gray, model = 0.4 + 0.2 * grays(1), torch.full((1, 2, 48, 64), 0.05)
    model[:, 1] = -0.08
    hint, lock = Hint(20, 20, "#a04040", 3), Hint(40, 24, KEEP, 3)
    plain = follow_hints(model, gray, drawn(hint), None, affinities)
    locked = follow_hints(model, gray, drawn(hint, lock), None, affinities)
    area = np.s_[:, :, 22:27, 38:43]
    assert (locked - model)[area].abs().max() < 0.004 < (plain - model)[area].abs().max()
    assert (locked - model)[:, :, 14:34, 30:50].abs().mean() < 0.7 * (plain - model)[:, :, 14:34, 30:50].abs().mean()
    assert (locked[0, :, 20, 20] - drawn(hint)[0, :2, 20, 20]).abs().max() < 0.01
    soft = torch.cat([torch.full((1, 2, 48, 64), 0.1), torch.ones(1, 1, 48, 64)], 1)
    over_soft = follow_hints(model, gray, drawn(lock), soft, affinities)  # over the colours of words and masks too
    assert (over_soft - model)[area].abs().max() < 0.004


@torch.no_grad()
def test_a_thing_s_own_variation_is_partly_covered_by_a_hint_and_not_at_all_by_a_lock(affinities, monkeypatch):
    gray = torch.full((1, 1, 32, 64), 0.5)
    chroma = torch.full((1, 2, 32, 64), 0.1)
    chroma[..., 32:] = -0.1
    hints = torch.zeros(1, 3, 32, 64)
    hints[0, :, 10, 10] = torch.tensor([0.3, 0.2, 1])

    def everywhere(self, embedded, places, valid, bias=None):
        return valid[..., None, None].float().expand(-1, -1, *embedded[0].shape[-2:]) / valid.sum()

    monkeypatch.setattr(Affinity, "shares", everywhere)
    found = affinities.correction(chroma, gray, hints)
    for k, asked in enumerate((0.3, 0.2)):
        covered = by_affinity.EVENED
        right = asked - (1 - covered) * 0.1 - covered * -0.1
        assert found[0, k, 5, 5].item() == pytest.approx(asked - 0.1, abs=1e-4)
        assert found[0, k, 20, 60].item() == pytest.approx(right, abs=1e-4)
    lock = torch.zeros(1, 5, 32, 64)
    lock[0, 4, 10, 10] = 1
    assert affinities.correction(chroma, gray, with_kept(lock, chroma)).abs().max() < 1e-6
    both = torch.cat([hints, torch.zeros(1, 2, 32, 64)], dim=1)
    both[0, 4, 25, 50] = 1  # takes half of each place's share
    half = affinities.correction(chroma, gray, with_kept(both, chroma))
    torch.testing.assert_close(half, found / 2, rtol=0, atol=1e-4)


def test_where_hints_overlap_the_later_wins_without_a_line_of_mixed_colours(affinities):
    gray = torch.full((1, 1, 48, 64), 0.5)
    hints = drawn(Hint(26, 24, "#a04040", 8), Hint(36, 24, "#4040a0", 8))
    found = follow_hints(torch.zeros(1, 2, 48, 64), gray, hints, None, affinities)
    error = (found - hints[:, :2]).abs().amax(1)[0]
    inside = hints[0, 2] > 0
    assert error[inside].max() < 0.03  # a mixture of the two would be 0.1 away


@torch.no_grad()
def test_a_thousand_hints(affinities):
    gray, colors = 0.3 + 0.4 * grays(1), ("#a04040", "#40a040", "#4040a0", KEEP)
    many = [Hint(k * 7 % 64, k * 5 % 48, colors[k % 4], 0, (k % 3 - 1) / 2) for k in range(1000)]
    found = follow_hints(torch.zeros(1, 2, 48, 64), gray, drawn(*many), None, affinities)
    assert torch.isfinite(found).all() and found.abs().max() <= 0.5


def test_cells_with_low_scores_are_not_of_the_region():
    """In an even photo only the scores tell the halves apart."""
    colorizer = Colorizer.from_pretrained("mini")
    affinities = affinities_of(colorizer.has, colorizer.part)
    gray, score = torch.full((1, 1, 64, 96), 0.5), torch.zeros(1, 1, 8, 12)
    score[..., :5] = 1
    region = affinities.region(gray, score, affinities.look(gray))
    assert region[..., :24].mean() > 0.9 and region[..., -24:].mean() < 0.1
