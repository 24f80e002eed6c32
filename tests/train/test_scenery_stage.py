"""Stage scenery: what colours and textures say of sky, water, grass and leaves, and that the part learns it."""

from dataclasses import replace

import pytest
import torch
from tiny_models import make_tiny_preset
from training import learn, make_batch, small_config

from seada_core.models.scenery import SCENERY, Scenery, scenery_loss
from seada_core.presets import SceneryConfig
from seada_core.train.scenery_labels import GRASS, LEAVES, NONE, SKY, UNKNOWN, WATER, label_scenery, spread
from seada_core.train.sources import DataError
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files

BLUE, SAND, LAWN, FOLIAGE = (0.45, 0.62, 0.9), (0.75, 0.62, 0.42), (0.38, 0.58, 0.22), (0.2, 0.42, 0.12)


def bands(*colors, noise=()):
    """A photo (1, 3, 96, 96) of horizontal bands, those in `noise` with texture."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for k, color in enumerate(colors):
        band = torch.tensor(color).view(3, 1, 1).expand(3, 96 // len(colors), 96).clone()
        if k in noise:
            band *= 1 + 0.5 * (torch.rand(1, *band.shape[1:], generator=generator) - 0.5)
        rows.append(band)
    return torch.cat(rows, 1)[None]


def middle(labels, part, parts):
    """The commonest label in the middle of the k-th of some bands."""
    height = labels.shape[1] // parts
    return int(labels[0, part * height + 2 : (part + 1) * height - 2].flatten().mode().values)


def test_a_landscape_is_labelled_by_its_colours_textures_and_places():
    photo = bands(BLUE, FOLIAGE, SAND, LAWN, noise=(1, 2))
    labels = label_scenery(photo, [""])
    assert labels.shape == (1, 24, 24) and labels.dtype == torch.uint8
    assert [middle(labels, k, 4) for k in range(4)] == [SKY, LEAVES, NONE, GRASS]


def test_water_is_labelled_where_the_text_speaks_of_it():
    photo = bands(BLUE, SAND, BLUE, noise=(1,))
    for text, expected in (("a boat on a lake", WATER), ("a blue car", UNKNOWN), ("an orchestra", UNKNOWN)):
        labels = label_scenery(photo, [text])
        assert middle(labels, 0, 3) == SKY and middle(labels, 2, 3) == expected


@pytest.mark.parametrize(
    "photo",
    [bands(BLUE), bands(SAND, BLUE, noise=(0,)), bands(BLUE, SAND, noise=(0,)), torch.full((1, 3, 96, 96), 0.8)],
    ids=["a backdrop", "not at the top", "rough", "grey"],
)
def test_not_all_that_is_blue_or_bright_is_sky(photo):
    assert not (label_scenery(photo, [""]) == SKY).any()


def test_clouds_belong_to_the_sky_around_them_and_photos_do_not_meet():
    cloudy, grey = bands(BLUE, BLUE, SAND, noise=(2,)), torch.full((1, 3, 96, 96), 0.5)
    ramp = torch.linspace(0, 1, 24).sin().clamp_min(0)[None, :, None]  # soft edges: less than a step between cells
    cloudy[0, :, 24:48, 20:76] = torch.lerp(cloudy[0, :, 24:48, 20:76], torch.tensor(0.95), ramp)
    labels = label_scenery(torch.cat([cloudy, grey]), ["", ""])
    assert (labels[0, 10:12, 8:16] == SKY).float().mean() > 0.9
    assert torch.equal(labels[:1], label_scenery(cloudy, [""]))
    # grey in the upper half may be a sky; below it is something else, unless the text speaks of water
    assert (labels[1, :12] == UNKNOWN).all() and (labels[1, 12:] == NONE).all()
    assert (label_scenery(grey, ["the sea"]) == UNKNOWN).all()


def test_spreading_stops_at_steps_and_at_what_is_not_allowed():
    values = torch.zeros(1, 1, 5, 6)
    values[..., 3:] = 10
    allowed = torch.ones(1, 5, 6, dtype=torch.bool)
    allowed[:, 2] = False
    seeds = torch.zeros_like(allowed)
    seeds[0, 0, 0] = True
    expected = torch.zeros_like(allowed)
    expected[0, :2, :3] = True
    assert torch.equal(spread(seeds, allowed, values, 5), expected)
    expected[0, :2] = True
    assert torch.equal(spread(seeds, allowed, values, 20), expected)


def build(recognition=True):
    torch.manual_seed(0)
    preset = make_tiny_preset()
    preset = replace(preset, control=replace(preset.control, recognition=recognition, recognition_width=32))
    parts = {part: part_files.build(part, preset) for part in ("controlnet_rca", "scenery")}
    return STAGES["scenery"].build(parts, preset, small_config()), parts


def test_it_learns_and_changes_its_own_part_alone():
    stage, parts = build()
    batch = make_batch(torch.cat([bands(BLUE, SAND, LAWN, noise=(1,)), bands(SAND, FOLIAGE, noise=(0, 1))]))
    losses, terms, changed = learn(stage, parts, batch, 25)
    assert losses[-1] < 0.3 * losses[0] and terms["predicted"] > 0.9
    assert changed == {"scenery"} == set(stage.parts())


def test_it_says_that_it_needs_a_classifier():
    with pytest.raises(DataError, match="stage scenery needs a controller whose mapper has a classifier"):
        build(recognition=False)


def test_the_loss_is_the_mean_cross_entropy_of_what_is_known():
    logits = torch.randn(2, 1 + len(SCENERY), 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 255] * 4).view(2, 3, 4).to(torch.uint8)
    log = logits.log_softmax(1)
    known = [(b, y, x) for b in range(2) for y in range(3) for x in range(4) if labels[b, y, x] < 255]
    expected = -sum(log[b, labels[b, y, x].long(), y, x] for b, y, x in known) / len(known)
    torch.testing.assert_close(scenery_loss(logits, labels), expected)
    assert scenery_loss(logits, torch.full_like(labels, 255)) == 0
    assert Scenery(SceneryConfig(width=8)).eval()(
        [torch.rand(1, 40, 8, 8), torch.rand(1, 112, 4, 4), torch.rand(1, 320, 2, 2)]
    ).shape == (1, 5, 8, 8)
