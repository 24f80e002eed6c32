"""The trainer: what each stage trains, data as a function of the step, caches."""

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tars import write_tar
from training import CAPTIONS

from seada_core import presets
from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.models import backbone
from seada_core.models.controlnet_rca import ControlNetRCA
from seada_core.models.schedule import NoiseSchedule
from seada_core.models.tokenizer import Tokenizer
from seada_core.train import data
from seada_core.train.batches import Batches
from seada_core.train.checks import TrainingError
from seada_core.train.data import build_cache
from seada_core.train.draws import Draws
from seada_core.train.encoder import load_encoder
from seada_core.train.loop import fit, learning_rate
from seada_core.train.probe import ChromaProbe
from seada_core.train.sources import DataError
from seada_core.train.stages import diffusion
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


@pytest.fixture(scope="module")
def cache(pictures, encoder_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "cache-64"
    return build_cache(str(pictures), folder, 64, load_encoder(str(encoder_file)), mirror=True)


@pytest.fixture
def parts(tiny_preset):
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_captions(CAPTIONS, 16, 64)
    modules = {}
    for part in part_files.SECTIONS:
        if part not in ("captioner", "token_diffusion"):
            modules[part] = part_files.build(part, tiny_preset, tokenizer)
    torch.nn.init.normal_(modules["controlnet_rca"].encoder.conv_in.weight, std=0.05)
    for module in modules.values():  # nothing stays at zero, so that what may change does
        for parameter in module.parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.02)
    return modules


def config(**changes):
    return replace(
        presets.TrainConfig(), steps=4, batch=4, resolution=64, crop=64, lr=1e-2, precision="no", ema=0.9,
        checkpoint_every=2, validate_every=4, **changes,
    )  # fmt: skip


# method.md's table: what a stage changes
TRAINED = {
    "base": {"unet"},
    "control": {"controlnet_rca"},
    "stage1": {"semantic_encoder", "semantic_adapter"},
    "stage2": {"controlnet_rca"},
    "stage3": {"controlnet_rca", "semantic_encoder", "semantic_adapter"},
    "ccd": {"hint_encoder"},
    "codec": {"vq_decoder"},
    "decoder": {"vq_decoder"},
}
MORE = {"base": {"semantic_encoder"}, "control": {"unet", "semantic_encoder"}, "stage2": {"unet"}, "stage3": {"unet"}}


@pytest.mark.parametrize("train_unet", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_a_stage_changes_exactly_its_own_parts(name, train_unet, parts, tiny_preset, cache):
    stage = STAGES[name].build(parts, tiny_preset, config(train_unet=train_unet)).train()
    before = {part: copy.deepcopy(module.state_dict()) for part, module in parts.items()}
    optimizer = torch.optim.SGD([p for p in stage.parameters() if p.requires_grad], lr=1.0)
    batch = Batches(cache, 4, 64, seed=0)[0]
    torch.manual_seed(0)
    stage(batch)["loss"].backward()
    optimizer.step()
    changed = {
        part
        for part, module in parts.items()
        for n, t in module.named_parameters()
        if not torch.equal(t, before[part][n])
    }
    assert changed == TRAINED[name] | (MORE.get(name, set()) if train_unet else set())
    if "controlnet_rca" in changed:
        rca = {
            n for n, t in parts["controlnet_rca"].named_parameters() if not torch.equal(t, before["controlnet_rca"][n])
        }
        assert any(n.startswith("rca.") for n in rca) == (name in ("stage2", "stage3"))
        assert any(n.startswith("mapper.") for n in rca) and any(n.startswith("encoder.") for n in rca)
    if name == "decoder":  # codes and grey features keep their meaning
        now = parts["vq_decoder"].state_dict()
        moved = {n.split(".")[0] for n, t in now.items() if not torch.equal(t, before["vq_decoder"][n])}
        assert moved == {"decoder"}
    assert set(stage.parts()) >= TRAINED[name]  # what it trained is what it exports


@pytest.mark.parametrize("name", ["control", "stage1"])
def test_without_residuals_the_controller_learns_and_acts_through_rca_from_the_start(name, parts, tiny_preset, cache):
    """SeAda's literal preset: bypassed RCA would leave nothing between E_con and the UNet."""
    torch.manual_seed(0)
    control = ControlNetRCA(parts["unet"], replace(tiny_preset.control, additive=False))
    torch.nn.init.normal_(control.encoder.conv_in.weight, std=0.05)  # c_f's columns start at zero
    for block in control.rca.values():
        torch.nn.init.normal_(block.to_out.weight, std=0.1)
    stage = STAGES[name].build({**parts, "controlnet_rca": control}, tiny_preset, config())
    batch = Batches(cache, 4, 64, seed=0)[0]
    terms = stage(batch)
    terms["loss"].backward()
    seen = all(p.grad is not None and p.grad.abs().sum() > 0 for p in control.encoder.mid_block.parameters())
    assert seen == (name == "control")
    other = stage(replace(batch, rgb=batch.rgb.flip(-1)))
    assert not torch.equal(other["diffusion"], terms["diffusion"])  # the condition counts


def test_stage1_sees_colour_and_the_others_grey(parts, tiny_preset, cache, monkeypatch):
    seen, encode = {}, parts["controlnet_rca"].encode
    for name in ("control", "stage1", "stage2", "stage3"):
        stage = STAGES[name].build(parts, tiny_preset, config())

        def recording(z, t, context, picture, name=name, **options):
            seen[name] = picture
            return encode(z, t, context, picture, **options)

        monkeypatch.setattr(parts["controlnet_rca"], "encode", recording)
        stage(Batches(cache, 4, 64, seed=0)[0])
    is_gray = {name: bool((p.amax(1) - p.amin(1)).max() < 1e-6) for name, p in seen.items()}
    assert is_gray == {"control": True, "stage1": False, "stage2": True, "stage3": True}


def test_stage1_loss_is_eq6(parts, tiny_preset, cache):
    torch.manual_seed(0)
    terms = STAGES["stage1"].build(parts, tiny_preset, config())(Batches(cache, 4, 64, seed=0)[0])
    torch.testing.assert_close(terms["loss"], terms["representation"] + 0.5 * terms["diffusion"])
    # part (a) alone, SeAda Table 3
    terms = STAGES["stage1"].build(parts, tiny_preset, config(representation_weight=0.0))(
        Batches(cache, 4, 64, seed=0)[0]
    )
    torch.testing.assert_close(terms["loss"], 0.5 * terms["diffusion"])


def test_velocity_target_and_x0_of_an_output():
    z, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 998])
    for preset in (presets.MINI, presets.SD15):
        schedule = NoiseSchedule(preset.diffusion)
        a = schedule.alphas_cumprod[t][:, None, None, None]
        velocity = a.sqrt() * noise - (1 - a).sqrt() * z
        wanted = diffusion.target(schedule, z, noise, t)
        torch.testing.assert_close(wanted, velocity if preset is presets.MINI else noise)
        z_t = diffusion.add_noise(schedule, z, noise, t)
        torch.testing.assert_close(diffusion.predict_x0(schedule, z_t, wanted, t), z, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def probe(tiny_preset, cache):
    torch.manual_seed(0)
    probe = ChromaProbe(part_files.build("vq_decoder", tiny_preset))
    probe.fit(cache, steps=3, batch=4)
    return probe


def test_the_probe_is_the_best_linear_reading_of_the_decoders_coarse_levels(probe, cache):
    from sklearn.linear_model import Ridge

    batches = Batches(cache, 4, 64, seed=0)
    x, y = [], []
    for step in range(3):
        rgb, z = batches[step].rgb, batches[step].latent
        codec = probe.codec
        features = codec.gray_features(luminance(rgb))
        hidden = codec.decoder.levels[3](
            F.relu(codec.decoder.stem(3 * torch.tanh(z / 3))) + codec.decoder.maps[3](features[3])
        )
        up = codec.decoder.ups[2](hidden.repeat_interleave(2, 2).repeat_interleave(2, 3))
        hidden = codec.decoder.levels[2](up + codec.decoder.maps[2](features[2]))
        x.append(hidden.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2))
        y.append(F.avg_pool2d(rgb_to_ycbcr(rgb)[:, 1:], 8).permute(0, 2, 3, 1).flatten(0, 2))
    x, y = torch.cat(x).detach().double().numpy(), torch.cat(y).double().numpy()
    np.testing.assert_allclose(probe.deviation.flatten(), y.std(0, ddof=1), rtol=1e-4)
    scaled = y / y.std(0, ddof=1)
    alpha = 1e-6 * ((x - x.mean(0)) ** 2).sum(0).mean()
    best = Ridge(alpha=alpha, solver="svd").fit(x, scaled).predict(x)
    rgb = torch.cat([batches[step].rgb for step in range(3)])
    shown = probe(torch.cat([batches[step].latent for step in range(3)]), luminance(rgb))
    np.testing.assert_allclose(shown.permute(0, 2, 3, 1).flatten(0, 2), best, atol=2e-2)
    explained = 1 - ((best - scaled) ** 2).sum() / ((scaled - scaled.mean(0)) ** 2).sum()
    again = ChromaProbe(codec)
    assert again.fit(cache, steps=3, batch=4) == pytest.approx(explained, abs=1e-3)
    assert torch.equal(again.linear.weight, probe.linear.weight)


def test_a_picture_misses_channels_by_its_own_seed_and_only_in_training(parts, tiny_preset, cache):
    maps = [torch.rand(3, 40, 2, 2) + 0.1, torch.rand(3, 50, 1, 1) + 0.1]
    dropped = diffusion.drop_channels(maps, 0.25, Draws([5, 6, 7]))
    for x, y in zip(maps, dropped):
        whole = (y == 0).flatten(2).all(2)
        assert torch.equal(whole, (y == 0).flatten(2).any(2)) and 0.1 < whole.float().mean() < 0.45
        torch.testing.assert_close(y[~whole], x[~whole] * 4 / 3)
    alone = diffusion.drop_channels([x[1:2] for x in maps], 0.25, Draws([6]))
    assert all(torch.equal(a, d[1:2]) for a, d in zip(alone, dropped))

    stage = STAGES["control"].build(parts, tiny_preset, config(recognition_dropout=0.5))
    batch = replace(Batches(cache, 4, 64, seed=0)[0], recognized=[torch.ones(4, 8, 1, 1)])
    seen = []
    stage.predict = lambda z_t, t, context, condition, recognized: (seen.append(recognized), z_t)[1]
    stage.train()(batch)
    stage.eval()(batch)
    assert (seen[0][0] == 0).any() and (seen[1][0] == 1).all()


def test_the_chroma_term_is_the_probes_error_of_x0(parts, tiny_preset, cache, probe):
    stage = STAGES["base"].build(parts, tiny_preset, config(chroma_weight=2.0), probe)
    batch = Batches(cache, 4, 64, seed=0)[0]
    z, rgb, t = batch.latent, batch.rgb, torch.tensor([0, 100, 500, 999])
    noise, output = torch.randn_like(z), torch.randn_like(z)
    z_t = diffusion.add_noise(stage.schedule, z, noise, t)
    terms = stage.errors(output, z, noise, z_t, t, rgb)
    a = stage.schedule.alphas_cumprod[t][:, None, None, None]
    chroma = rgb_to_ycbcr(rgb)[:, 1:].unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)) / probe.deviation
    shown = probe(a.sqrt() * z_t - (1 - a).sqrt() * output, luminance(rgb))
    torch.testing.assert_close(terms["chroma"], (shown - chroma).pow(2).mean())
    torch.testing.assert_close(terms["loss"], terms["diffusion"] + 2 * terms["chroma"])
    with torch.no_grad():
        shown = stage.preview(batch)["one_step"]
    torch.testing.assert_close(luminance(shown), luminance(rgb), rtol=0, atol=1e-5)
    assert rgb_to_ycbcr(shown)[:, 1:].abs().max() > 0.01


def test_c_f_is_drawn_towards_the_latent_and_the_colour(parts, tiny_preset, cache, probe):
    control = ControlNetRCA(parts["unet"], replace(tiny_preset.control, condition_latent=6))
    stage = STAGES["control"].build(
        {**parts, "controlnet_rca": control},
        tiny_preset,
        config(condition_weight=0.5),
        probe,
    )
    batch = Batches(cache, 4, 64, seed=0)[0]
    torch.manual_seed(0)
    terms = stage(batch)
    rgb = batch.rgb
    c_f = control.mapper(luminance(rgb).expand_as(rgb))
    weights = torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    chroma = torch.einsum("kc,bchw->bkhw", weights, F.avg_pool2d(rgb, 8)) / stage.probe.deviation
    torch.testing.assert_close(terms["condition"], (c_f[:, :4] - batch.latent).square().mean())
    torch.testing.assert_close(terms["condition_chroma"], (c_f[:, 4:] - chroma).square().mean(), rtol=1e-3, atol=1e-4)
    expected = terms["diffusion"] + 0.5 * (terms["condition"] + terms["condition_chroma"])
    torch.testing.assert_close(terms["loss"], expected)


def test_the_decoder_stage_decodes_half_of_a_batch_from_one_step(parts, tiny_preset, cache):
    stage = STAGES["decoder"].build(parts, tiny_preset, config(empty_prob=1.0)).eval()
    batch = Batches(cache, 4, 64, seed=0)[0]
    terms = stage(batch)
    even, odd = [0, 2], [1, 3]  # of a batch's places
    generators = Draws([batch.seeds[k] for k in even]).generators
    z = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    batch = replace(batch, rgb=batch.rgb[even + odd], latent=batch.latent[even + odd])
    gray, context = luminance(batch.rgb), stage.diffusion.context(["", ""])
    t = torch.tensor([999, 999])
    control = parts["controlnet_rca"]
    features = control.encode(z, t, context, gray[:2].expand(-1, 3, -1, -1))
    v = backbone.denoise(
        parts["unet"], z, t, context, features.residuals, [lambda i, h: control.attend(i, h, features)]
    )
    decoded = parts["vq_decoder"].chroma(torch.cat([-v, batch.latent[2:]]), gray)  # x0 = -v where alpha_bar is 0
    difference = ycbcr_to_rgb(torch.cat([gray, decoded], 1)) - batch.rgb
    torch.testing.assert_close(terms["l1"], difference.abs().mean(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(terms["psnr"], -10 * difference[2:].square().mean().log10(), rtol=1e-3, atol=1e-3)
    grey_error = (gray[:2] - batch.rgb[:2]).square().mean()
    torch.testing.assert_close(terms["predicted"], difference[:2].square().mean() / grey_error, rtol=1e-3, atol=1e-4)


def test_timesteps_cover_the_range_and_shift_towards_noise():
    u = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    u[0], u[1] = 0, 1 - 2**-24
    plain = diffusion.sample_timesteps(u, config(), 1000)
    shifted = diffusion.sample_timesteps(u, config(timestep_shift=3.0), 1000)
    assert plain.min() == 0 and plain.max() == 999
    assert torch.equal(plain, (u * 1000).long())
    # the median of s u / (1 + (s - 1) u) at u = 1/2 is 3/4 for s = 3
    assert shifted.float().median() == pytest.approx(750, abs=10)


# data


def test_cache_holds_latents_of_the_pictures_and_of_their_mirror_images(cache, encoder_file):
    encoder = load_encoder(str(encoder_file))
    rgb = torch.from_numpy(np.asarray(cache.picture(3)).copy()).permute(2, 0, 1)[None].float() / 255
    for view, picture in enumerate((rgb, rgb.flip(-1))):
        expected = encoder(picture)[0]
        torch.testing.assert_close(
            torch.from_numpy(cache.latents[3, view].copy()).float(), expected, rtol=2e-2, atol=2e-2
        )
    assert cache.records[3] == {"key": "03.png", "captions": [CAPTIONS[0]]}


def test_batches_are_a_function_of_the_step_and_an_epoch_has_every_picture_once(cache):
    batches = Batches(cache, 3, 64, seed=5)
    again = Batches(cache, 3, 64, seed=5)
    epoch = [batches[step] for step in range(4)]
    other = again[2]  # asked for out of order
    assert torch.equal(epoch[2].rgb, other.rgb) and torch.equal(epoch[2].latent, other.latent)
    assert epoch[2].captions == other.captions
    order = [batches.picture_at(i) for i in range(12)]
    assert sorted(order) == list(range(12)) and order != [batches.picture_at(i) for i in range(12, 24)]
    assert not torch.equal(Batches(cache, 3, 64, seed=6)[0].rgb, epoch[0].rgb)


def test_two_processes_share_an_epoch(cache):
    halves = [Batches(cache, 6, 64, 0, rank, 2) for rank in (0, 1)]
    whole = Batches(cache, 6, 64, 0)
    places = []
    for step in (0, 1):
        together, parts = whole[step], [half[step] for half in halves]
        for name in ("rgb", "latent", "uniform"):
            assert torch.equal(getattr(together, name), torch.cat([getattr(part, name) for part in parts]))
        for name in ("captions", "seeds", "places"):
            assert getattr(together, name) == getattr(parts[0], name) + getattr(parts[1], name)
        places += together.places
        strata = (together.uniform * 6).long()  # one of a step's pictures in each sixth of the timesteps
        assert sorted(strata.tolist()) == list(range(6))
    assert sorted(whole.picture_at(place) for place in places) == list(range(12))


def test_crops_of_picture_and_latent_belong_together(pictures, tmp_path):
    blocks = lambda rgb: torch.nn.functional.avg_pool2d(rgb, 8).repeat(1, 2, 1, 1)[:, :4]  # noqa: E731
    cache = build_cache(str(pictures), tmp_path / "c", 64, blocks, mirror=True)
    batch = Batches(cache, 8, 32, seed=0)[0]
    assert batch.rgb.shape == (8, 3, 32, 32)
    torch.testing.assert_close(batch.latent, blocks(batch.rgb), rtol=0, atol=1e-3)


def test_shards_and_folders_give_the_same_samples(pictures, tmp_path):
    members = {}
    for path in sorted(pictures.glob("*.png")):
        record = json.dumps({"captions": [path.with_suffix(".txt").read_text()]}).encode()
        members |= {path.name: path.read_bytes(), f"{path.stem}.json": record}
    write_tar(tmp_path / "data-000.tar", members)
    folder, shards = list(data.samples(str(pictures))), list(data.samples(str(tmp_path / "data-{000..000}.tar")))
    assert [(b, r) for _, b, r in folder] == [(b, r) for _, b, r in shards]


def test_bad_sources(tmp_path, pictures, encoder_file):
    encoder = load_encoder(str(encoder_file))
    with pytest.raises(DataError, match="no pictures"):
        list(data.samples(str(tmp_path)))
    with pytest.raises(DataError, match=r"no such shard.*missing-001"):
        list(data.samples(str(tmp_path / "missing-{001..002}.tar")))
    with pytest.raises(DataError, match="not TAESD"):
        save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
        load_encoder(str(tmp_path / "x.safetensors"))
    with pytest.raises(DataError, match="no TAESD encoder"):
        load_encoder(str(tmp_path / "nothing"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in pictures.glob("*.png"):
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "zz.png").write_bytes(b"no picture")
    lines = []
    cache = build_cache(str(broken), tmp_path / "cache", 64, encoder, log=lines.append)
    assert len(cache) == 12 and "zz.png" in lines[0]  # one in thirteen: skipped, and reported
    for i in range(3):
        (broken / f"y{i}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="12 pictures could be read and 4 could not"):
        build_cache(str(broken), tmp_path / "cache2", 64, encoder, log=lines.append)
    with pytest.raises(DataError, match="another --cache folder"):
        build_cache(str(pictures), tmp_path / "cache", 64, encoder)
    with pytest.raises(DataError, match="crop 60 px"):
        Batches(cache, 2, 60, 0)


# the loop


def test_learning_rate():
    c = config(warmup=2, decay=0.5)
    rates = [learning_rate(replace(c, steps=8, lr=1.0), s) for s in range(8)]
    assert rates == [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]


@pytest.mark.slow
def test_loss_falls(parts, tiny_preset, cache, tmp_path):
    c = replace(config(), steps=40, batch=12, lr=2e-3, checkpoint_every=100)
    fit(STAGES["base"].build(parts, tiny_preset, c), c, cache, tmp_path, workers=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.slow
def test_training_without_tensorboard_logs_and_previews_in_files(parts, tiny_preset, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    c = replace(config(), batch=2, validate_every=2)
    fit(STAGES["codec"].build(parts, tiny_preset, c), c, cache, tmp_path, cache, workers=0)
    steps = {
        name: [json.loads(line)["step"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("losses.jsonl", "validation.jsonl")
    }
    assert steps == {"losses.jsonl": [0, 1, 2, 3], "validation.jsonl": [2, 4]}
    previews = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert previews == [f"{name}-{step:07}.png" for name in ("codes", "decode") for step in (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage2", "decoder"])
def test_options_that_save_memory_validate_and_resume(name, parts, tiny_preset, cache, tmp_path):
    """Frozen parts in bf16, checkpointed blocks, micro-batches: a resumed run ends where one in one go does."""
    options = {"precision": "bf16", "frozen": "bf16", "gradient_checkpointing": True, "optimizer": "sgd"}
    c = replace(config(), micro_batch=2, **options)
    states = []
    for folder, stops in ((tmp_path / "straight", (4,)), (tmp_path / "broken", (2, 4))):
        for stop in stops:
            stage = STAGES[name].build(copy.deepcopy(parts), tiny_preset, c)
            now = replace(c, steps=stop, validate_every=2)
            fit(stage, now, cache, folder, cache, resume=True, workers=0, preset=tiny_preset)
        states.append({n: p.detach().float() for n, p in stage.named_parameters() if p.requires_grad})
    for n, tensor in states[0].items():
        torch.testing.assert_close(states[1][n], tensor, rtol=1e-5, atol=1e-6)
    kept = load_file(folder / "checkpoint-4" / "model.safetensors")
    trained = {n.replace("_checkpoint_wrapped_module.", "") for n in states[0]}
    frozen = {n.replace("_checkpoint_wrapped_module.", "") for n, p in stage.named_parameters() if not p.requires_grad}
    assert trained <= kept.keys() and not frozen & kept.keys()
    with pytest.raises(TrainingError, match=r"unet\.heads was 2, now 4"):
        other = replace(tiny_preset, unet=replace(tiny_preset.unet, heads=4))
        fit(stage, c, cache, folder, resume=True, preset=other)
