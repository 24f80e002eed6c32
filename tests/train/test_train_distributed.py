"""Two processes train as one does, resume each other's checkpoints, and build a cache together."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import CAPTIONS, pair, run
from PIL import Image
from tars import png, write_tar

from seada_core.train.data import Cache, build_cache
from seada_core.weights import part_files

STAGES = ("stage1", "codec", "joint")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Three webdataset shards of four small pictures, with captions of several lengths."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for shard in range(3):
        members = {}
        for i in range(4):
            picture = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((80, 64), Image.BICUBIC)
            text = CAPTIONS[(shard + i) % 3]
            record = {"captions": [text], "color_captions": [text + " in bright colours"]}
            members |= {f"{shard}-{i}.png": png(picture), f"{shard}-{i}.json": json.dumps(record).encode()}
        write_tar(folder / f"data-{shard:03}.tar", members)
    return folder


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory) -> Path:
    """Four steps of each stage in one process and in two, and both resumed by the other after two steps."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = lambda rgb: torch.nn.functional.avg_pool2d(rgb, 8).repeat(1, 2, 1, 1)[:, :4] - 0.5  # noqa: E731
    cache = str(folder / "cache")
    build_cache(str(pictures), folder / "cache", 64, encoder)
    for stage in STAGES:
        run(stage, cache, str(folder / "one" / stage), 4)
        (folder / "one-two" / stage).mkdir(parents=True)
        shutil.copytree(folder / "one" / stage / "checkpoint-2", folder / "one-two" / stage / "checkpoint-2")
    plan = [{"stage": s, "cache": cache, "out": str(folder / "two" / s), "steps": 4} for s in STAGES]
    plan += [{"stage": s, "cache": cache, "out": str(folder / "one-two" / s), "steps": 4} for s in STAGES]
    pair(folder, plan)
    for stage in STAGES:
        (folder / "two-one" / stage).mkdir(parents=True)
        shutil.copytree(folder / "two" / stage / "checkpoint-2", folder / "two-one" / stage / "checkpoint-2")
        run(stage, cache, str(folder / "two-one" / stage), 4)
    return folder


def losses(folder: Path) -> dict[int, dict]:
    return {entry["step"]: entry for entry in map(json.loads, (folder / "losses.jsonl").read_text().splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["two", "one-two", "two-one"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_losses_do_not_depend_on_the_number_of_processes(runs, stage, other):
    one, found = losses(runs / "one" / stage), losses(runs / other / stage)
    assert sorted(found) == ([0, 1, 2, 3] if other == "two" else [2, 3])
    for step, terms in found.items():
        for name in ("loss", "diffusion", "representation", "kl", "l1", "vq"):
            if name in terms:
                assert terms[name] == pytest.approx(one[step][name], rel=1e-4), (step, name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_checkpoints_hold_what_is_trained_and_exports_agree(runs, stage):
    from safetensors.torch import load_file

    one, two = (torch.load(runs / n / stage / "exported.pt") for n in ("one", "two"))
    kept = load_file(runs / "two" / stage / "checkpoint-4" / "model.safetensors")
    moved = {name for name in one if name.removeprefix("module.") in {n.removeprefix("module.") for n in kept}}
    assert 0 < len(kept) < len(one) or stage == "codec"
    floats = [name for name in moved if one[name].is_floating_point()]
    far = [~torch.isclose(one[name], two[name], rtol=1e-2, atol=1e-4).flatten() for name in floats]
    assert torch.cat(far).float().mean() < 0.005  # Adam takes a whole step along a gradient that is all rounding


@pytest.mark.slow
def test_two_processes_build_a_cache_of_disjoint_shares(pictures, tmp_path):
    """The command: both read their own tar shards; together every picture once, and all of it trains."""
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = tmp_path / "encoder.safetensors"
    state = AutoencoderTiny().encoder.state_dict()
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, encoder)
    argv = [
        "base", f"--data={pictures}", f"--out={tmp_path / 'out'}", f"--encoder={encoder}", "--resolution=64",
        "--crop=64", "--batch=6", "--steps=2", "--workers=1", "--text.width=32", "--text.layers=1", "--text.heads=2",
        "--text.length=16", "--unet.channels", "32", "64", "--unet.attention", "False", "True", "--unet.heads=2",
        "--unet.context-dim=32", "--unet.groups=8", "--chroma-weight=0",
    ]  # fmt: skip
    pair(tmp_path, [{"kind": "command", "argv": argv}])
    cache = Cache(tmp_path / "out" / "cache-64")
    assert len(cache.shares) == 2 and [len(share) for share in cache.shares] == [8, 4]
    keys = [record["key"] for record in cache.records]
    assert sorted(keys) == [f"{shard}-{i}" for shard in range(3) for i in range(4)]
    assert cache.report["read"] == 12 and cache.report["without_captions"] == 0
    for index in (0, 7, 8, 11):  # the joined arrays agree with the share's own
        share, place = (cache.shares[0], index) if index < 8 else (cache.shares[1], index - 8)
        assert np.array_equal(cache.latents[index, 0, :, 2:4], share.latents[place, 0, :, 2:4])
        assert cache.picture(index).tobytes() == share.picture(place).tobytes()
    assert len(losses(tmp_path / "out" / "base")) == 2
    assert part_files.load_part(tmp_path / "out" / "parts" / "unet.safetensors", "unet")


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResnetBlock2D,Transformer2DModel,RCA,CLIPEncoderLayer,TokenBlock",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "DS_ACCELERATOR": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [FSDP, DEEPSPEED], ids=["fsdp", "deepspeed"])
def test_sharded_states_train_validate_resume_and_export_whole(runs, tmp_path, settings):
    """The same losses as one process, a checkpoint that resumes, and whole weights out."""
    fsdp = settings is FSDP
    if not fsdp and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    cache, out = str(runs / "cache"), tmp_path / "out"
    plan = [
        {"stage": "joint", "cache": cache, "out": str(out), "steps": n, "fsdp": fsdp, "validate": True} for n in (2, 4)
    ]
    pair(tmp_path, plan, **settings)
    one, found = losses(runs / "one" / "joint"), losses(out)
    assert sorted(found) == [0, 1, 2, 3]
    for step, terms in found.items():
        assert terms["loss"] == pytest.approx(one[step]["loss"], rel=1e-4), step
    whole, exported = (torch.load(path / "exported.pt") for path in (runs / "one" / "joint", out))
    assert whole.keys() == exported.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-2, atol=1e-4)
