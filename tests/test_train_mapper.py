"""Stage mapper: its loss, what learns, and that what learnt is what other stages and the model see through."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import make_tiny_preset
from test_train_data import encode

from seada_core import backbone, checkpoints, presets
from seada_core.color import luminance, rgb_to_ycbcr
from seada_core.controlnet_rca import ControlNetRCA, recognize
from seada_core.train import mapper as stage_module
from seada_core.train.__main__ import _recognized
from seada_core.train.checks import process_state
from seada_core.train.data import Batches, build_cache
from seada_core.train.draws import Draws
from seada_core.train.loop import fit
from seada_core.train.mapper import MapperStage, augment
from seada_core.train.probe import chroma_deviation

CONFIG = replace(
    presets.TrainConfig(), steps=12, batch=4, resolution=64, crop=64, lr=2e-4, precision="no", ema=0.5,
    checkpoint_every=100, validate_every=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def preset():
    control = presets.ControlConfig(
        mapper_channels=(4, 8, 8), condition_latent=6, recognition=True, recognition_size=2, recognition_width=16,
        recognition_blocks=1, additive=True, head_dim=16,
    )  # fmt: skip
    return replace(make_tiny_preset(), control=control)


@pytest.fixture
def control(preset):
    torch.manual_seed(0)
    part = ControlNetRCA(backbone.build_unet(preset.unet), preset.control)
    part.mapper.classifier.load_package_weights()
    return part


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Photos whose colour follows from their luminance: what is dark is blue, what is light is orange."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("mapper")
    (folder / "pictures").mkdir()
    torch.manual_seed(1)
    for k in range(12):
        y = F.interpolate(torch.rand(1, 1, 3, 3), (64, 64), mode="bicubic", align_corners=True).clamp(0, 1)[0, 0]
        rgb = torch.stack([y * 0.9 + 0.1 * y**2, y * 0.9, (1 - y) * 0.2 + y * 0.6], -1)
        Image.fromarray((rgb * 255).round().byte().numpy()).save(folder / "pictures" / f"{k}.png")
    return build_cache(str(folder / "pictures"), folder / "cache", 64, encode)


def test_the_loss_is_the_error_of_two_channels_and_the_change_of_the_others(control, preset, cache):
    stage = MapperStage({"controlnet_rca": control}, preset, CONFIG, torch.tensor([0.1, 0.2])).eval()
    batch = Batches(cache, 4, 64, seed=0)[0]
    with torch.no_grad():
        terms = stage(batch)
        assert terms["keep"] == 0
        stage.mapper.out.weight.mul_(1.5)
        changed = stage(batch)
        gray = luminance(batch["rgb"]).expand(-1, 3, -1, -1)
        c_f, before = stage.mapper(gray), stage.before(gray)
    cells = batch["rgb"].unflatten(2, (8, 8)).unflatten(4, (8, 8)).mean((3, 5))
    wanted = rgb_to_ycbcr(cells)[:, 1:] / torch.tensor([0.1, 0.2])[:, None, None]
    chroma = ((c_f[:, 4:] - wanted) ** 2).mean()
    keep = ((c_f[:, :4] - before[:, :4]) ** 2).mean() / before[:, :4].var()
    torch.testing.assert_close(changed["chroma"], chroma)
    torch.testing.assert_close(changed["keep"], keep)
    torch.testing.assert_close(changed["loss"], chroma + 0.25 * keep)


def test_a_mapper_without_room_for_colour_is_refused(preset):
    few = replace(preset, control=replace(preset.control, condition_latent=4))
    part = ControlNetRCA(backbone.build_unet(few.unet), few.control)
    with pytest.raises(ValueError, match="condition-latent 6 or more"):
        MapperStage({"controlnet_rca": part}, few, CONFIG)


def test_pictures_are_cropped_mirrored_and_aged_by_their_own_seeds_and_keep_their_colours(monkeypatch):
    x = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64)
    same = x[None].expand(40, -1, -1, -1)
    seeds = list(range(40))
    monkeypatch.setattr(stage_module, "OLD_SHARE", 0.0)
    seen = augment(same, Draws(seeds))
    assert torch.equal(seen, augment(same, Draws(seeds))) and torch.equal(seen[7:9], augment(same[:2], Draws([7, 8])))
    spans = (seen[:, 0, 32, 60] - seen[:, 0, 32, 3]) / (x[0, 32, 60] - x[0, 32, 3])
    assert 0.6 < spans.abs().min() < 0.75 and 0.9 < spans.abs().max() < 1.01
    assert 10 < (spans < 0).sum() < 30
    colored = torch.tensor([0.55, 0.45, 0.5])[:, None, None].expand(20, 3, 64, 64)
    monkeypatch.setattr(stage_module, "OLD_SHARE", 0.5)
    aged = augment(colored, Draws(seeds[:20]))
    assert 3 < ((luminance(aged) - luminance(colored)).abs().amax((1, 2, 3)) > 0.02).sum() < 17
    torch.testing.assert_close(
        rgb_to_ycbcr(aged)[:, 1:].mean((2, 3)), rgb_to_ycbcr(colored)[:, 1:].mean((2, 3)), atol=5e-3, rtol=0
    )


def test_the_mapper_learns_with_the_last_of_its_classifier_and_other_stages_see_through_that(
    control, preset, cache, tmp_path
):
    parts, state = {"controlnet_rca": control}, process_state()
    looked = _recognized(cache, parts, CONFIG, state)
    assert looked.recognized and _recognized(cache, parts, CONFIG, state).recognizer == looked.recognizer
    start = copy.deepcopy(control.state_dict())
    stage = MapperStage(parts, preset, CONFIG, chroma_deviation(cache))
    with torch.no_grad():
        first = stage.eval()(Batches(cache, 12, 64, seed=0)[0])["chroma"]
    exported = tmp_path / "controlnet_rca.safetensors"
    fit(
        stage.train(), CONFIG, cache, tmp_path / "mapper", workers=0,
        export=lambda _: checkpoints.save_part(exported, "controlnet_rca", preset, control),
    )  # fmt: skip
    loaded = checkpoints.load_part(exported, "controlnet_rca")[0]
    changed = {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, start[name])}
    assert changed and all(name.startswith("mapper.") for name in changed)
    groups = {int(name.split(".")[3]) for name in changed if ".classifier.groups." in name}
    assert groups == {4, 5, 6} and not any(".stem." in name for name in changed)
    assert not any("classifier" in name for name, _ in loaded.named_parameters())  # frozen again
    stage = MapperStage({"controlnet_rca": loaded}, preset, CONFIG, chroma_deviation(cache)).eval()
    with torch.no_grad():
        assert stage(Batches(cache, 12, 64, seed=0)[0])["chroma"] < 0.7 * first
    again = checkpoints.load_part(exported, "controlnet_rca")[0]
    new = _recognized(cache, {"controlnet_rca": again}, CONFIG, state)
    assert new.recognizer != looked.recognizer
    rgb = torch.stack([cache.view(k, 0) for k in range(3)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = recognize(again.mapper.classifier, luminance(rgb).expand_as(rgb))
    for found, wanted in zip(new.recognized, expected):
        torch.testing.assert_close(torch.tensor(found[:3, 0]).float(), wanted.float(), atol=0.05, rtol=0.02)
