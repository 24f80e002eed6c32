"""The trainer's command: going on after SIGKILL, errors in one line, all stages one after the other."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training import SIZES

from seada_core import presets
from seada_core.files.weight_headers import CheckpointError
from seada_core.settings import to_dict
from seada_core.train import lora
from seada_core.train.__main__ import main, parse
from seada_core.train.checks import TrainingError, check_same_run
from seada_core.train.prepare import prepare_parts
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


def command(stage, pictures, encoder_file, out, *more):
    more = (*(["--chroma-weight=0"] if stage in ("base", "control") else []), *more)  # no decoder, no probe
    return [
        stage, f"--data={pictures}", f"--out={out}", f"--encoder={encoder_file}", "--resolution=64", "--crop=64",
        "--batch=4", "--steps=6", "--checkpoint-every=2", "--workers=0", *SIZES, *more,
    ]  # fmt: skip


def losses(out, stage="base"):
    return [json.loads(line) for line in (out / stage / "losses.jsonl").read_text().splitlines()]


def start(*arguments) -> subprocess.Popen:
    """The command as a process of its own: the same threads, so the same sums, in every run that is compared."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seada_core.train", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_run_killed_with_sigkill_and_resumed_equals_one_that_was_not(pictures, encoder_file, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    killed = start(*command("base", pictures, encoder_file, broken, "--steps=100000"))
    deadline = time.monotonic() + 240
    while not (broken / "base" / "checkpoint-2").is_dir() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = sorted(int(p.name.split("-")[1]) for p in (broken / "base").glob("checkpoint-*[0-9]"))
    assert kept, "killed before its first checkpoint"
    steps = f"--steps={kept[-1] + 3}"  # a fast machine may have gone on for a while
    runs = [
        start(*command("base", pictures, encoder_file, straight, steps, "--validation", str(pictures))),
        start(*command("base", pictures, encoder_file, broken, steps, "--resume")),
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert losses(broken) == losses(straight) and len(losses(straight)) == kept[-1] + 3
    for part in ("unet", "semantic_encoder"):
        ours, theirs = (
            part_files.read_part(out / "parts" / f"{part}.safetensors", part)[2] for out in (broken, straight)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_may_be_older_than_a_field_of_the_recipe(tmp_path):
    then = to_dict(presets.TrainConfig())
    del then["representation_weight"]
    (tmp_path / "config.json").write_text(json.dumps(then))
    check_same_run(tmp_path, presets.TrainConfig(), None)
    with pytest.raises(TrainingError, match=r"representation_weight was 1\.0, now 0\.5"):
        check_same_run(tmp_path, presets.TrainConfig(representation_weight=0.5), None)


def test_bad_runs_end_with_status_1_and_one_line(pictures, encoder_file, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(command("base", pictures, encoder_file, out, "--chroma-weight=1")) == 1
    assert "vq_decoder.safetensors" in (error := capsys.readouterr().err) and "train stage codec first" in error
    assert main(command("control", pictures, encoder_file, out)) == 1
    assert "stage control needs unet.safetensors" in capsys.readouterr().err
    assert main(command("base", pictures, encoder_file, out, "--steps=2")) == 0
    capsys.readouterr()
    assert main(command("base", pictures, encoder_file, out)) == 1
    assert "add --resume" in capsys.readouterr().err
    assert main(command("base", pictures, encoder_file, out, "--resume", "--lr=1")) == 1
    assert "lr was 0.0006, now 1.0" in capsys.readouterr().err
    assert main(command("base", pictures, encoder_file, out, "--resume", "--unet.heads=4")) == 1
    assert "unet.heads was 2, now 4" in capsys.readouterr().err
    assert main(command("control", pictures, encoder_file, out, "--unet.heads=4")) == 1
    assert "--unet.heads 2 there, 4 here" in capsys.readouterr().err
    assert main(["base", "--data=nowhere", "--chroma-weight=0", f"--out={tmp_path / 'x'}"]) == 1
    assert "give --encoder" in capsys.readouterr().err
    assert main(["nonsense", "--data=x", "--out=y"]) == 2


@pytest.mark.slow
def test_all_runs_every_stage_and_its_parts_load(pictures, encoder_file, tmp_path):
    more = ["--steps=2", "--tokens.context-dim=32", "--validation", str(pictures)]
    assert main(command("all", pictures, encoder_file, tmp_path, *more)) == 0
    made = {part for entry in STAGES.values() for part in entry.makes} - {"people"}  # which needs photos with labels
    assert {p.stem for p in (tmp_path / "parts").iterdir()} == made
    from seada_core.pipeline import Colorizer

    result = Colorizer.from_pretrained(str(tmp_path / "parts"))(Image.new("L", (70, 50)), steps=1, token_steps=2)
    assert result.size == (70, 50)

    # going on from these parts with a LoRA, cached texts and frozen parts in bf16, and once more
    again = tmp_path / "again"
    options = [f"--init={tmp_path / 'parts'}", "--train-unet=False", "--lora=2", "--cache-text=True", "--steps=2"]
    options += ["--frozen=bf16", "--precision=bf16", "--batch=4", "--micro-batch=2"]
    assert main([*command("stage2", pictures, encoder_file, again), *options]) == 0
    files = {
        path.relative_to(again).as_posix() for path in again.rglob("*.safetensors") if "checkpoint" not in path.name
    }
    assert {"lora/unet.safetensors", "lora/unet_lora.safetensors", "parts/unet.safetensors"} <= files
    assert list(again.glob("texts-*/embeddings.npy"))
    before, after = (
        part_files.read_part(folder / "unet.safetensors", "unet")[2] for folder in (tmp_path / "parts", again / "parts")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("up_blocks") and ".to_" in name for name in changed)
    merged, left = lora.merge(before, load_file(again / "lora" / "unet_lora.safetensors"))
    assert not left
    for name, tensor in merged.items():
        torch.testing.assert_close(after[name], tensor)
    assert main([*command("stage3", pictures, encoder_file, again), *options]) == 0
    assert (
        main([*command("joint", pictures, encoder_file, again, "--tokens.context-dim=32"), *options, "--lora=3"]) == 1
    )


@pytest.mark.parametrize("preset", [["--preset=sd15"], ["--preset", "sd15"], []])
def test_sizes_are_the_named_presets(preset):
    options = parse(["base", "--data=sd15", "--out=x", *preset])
    assert options.preset == (presets.SD15 if preset else presets.MINI)


def test_options_replace_the_recipe_and_the_sizes():
    options = parse([
        "--resume", "stage2", "--data=x", "--out", "y", "--steps", "5", "--lr=1e-3", "--betas", "0.5", "0.6",
        "--train-unet", "False", "--gradient-checkpointing", "--no-cache-text", "--unet.channels", "64", "128",
        "--unet.attention", "False", "True", "--text.width=32", "--adapter.scale", "0.5", "--control.no-additive",
        "--control.rca=False", "--film", "0.25",
    ])  # fmt: skip
    assert (options.stage, options.data, options.out, options.resume) == ("stage2", "x", Path("y"), True)
    assert (options.film, options.mirror, options.cache) == (0.25, False, None)
    changes = {
        "steps": 5, "lr": 1e-3, "betas": (0.5, 0.6), "train_unet": False, "gradient_checkpointing": True,
        "cache_text": False,
    }  # fmt: skip
    recipe = presets.MINI.training["stage2"]
    assert options.config(STAGES["stage2"]) == replace(recipe, **changes)
    sizes = options.preset
    assert sizes.unet == replace(presets.MINI.unet, channels=(64, 128), attention=(False, True))
    assert sizes.text == replace(presets.MINI.text, width=32)
    assert sizes.adapter == replace(presets.MINI.adapter, scale=0.5)
    assert sizes.control == replace(presets.MINI.control, additive=False, rca=False)
    assert parse(["all", "--data=x", "--out=y", "--adapter.scale=None"]).preset.adapter.scale is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["stage9"], "argument STAGE: invalid choice: 'stage9'"),
        (["base", "--steps=x"], "argument --steps: 'x' is not a whole number from 1 to"),
        (["base", "--steps=0"], "'0' is not a whole number from 1 to"),
        (["base", "--ema=1.5"], "argument --ema: '1.5' is not a number from 0 to 1"),
        (["base", "--lr=nan"], "'nan' is not a number"),
        (["base", "--text.heads=2000"], "argument --text.heads: '2000' is not a whole number from 1 to 1024"),
        (["base", "--control.sites=some"], "invalid choice: 'some'"),
        (["base", "--precision=fp8"], "invalid choice: 'fp8'"),
        (["base", "--train-unet=maybe"], "'maybe' is not True or False"),
        (["base", "--unet.channels"], "argument --unet.channels: expected at least one argument"),
        (["base", "--ste=5"], "unrecognized arguments: --ste=5"),
        (["base", "--preset=maxi"], "argument --preset: invalid choice: 'maxi'"),
    ],
)
def test_bad_usage_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as usage:
        parse([*arguments, "--data=x", "--out=y"])
    assert usage.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_the_help_lists_every_field_and_imports_no_torch():
    code = "import sys; from seada_core.train.__main__ import build_parser; help = build_parser().format_help()"
    code += "; assert not {'torch', 'accelerate', 'diffusers'} & set(sys.modules); print(help)"
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    names = [f"--{of.name}" for of in fields(presets.TrainConfig)]
    for section in ("text", "unet", "control", "codec", "tokens", "captioner", "diffusion", "sampling"):
        names += [f"--{section}.{of.name}" for of in fields(getattr(presets.MINI, section))]
    assert len(names) > 80
    for name in names:
        assert f"{name.replace('_', '-')} " in shown, name
    assert "(default: 64 128 128)" in shown and "--no-" not in shown


def test_a_missing_package_is_one_line():
    code = "import sys; sys.modules['accelerate'] = None; from seada_core.train.__main__ import main; "
    code += "sys.exit(main(['base', '--data=x', '--out=y']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'error: training needs accelerate: pip install "comfyui-seada[train]" (or pip install accelerate)'
    ]


def test_a_stage_needs_its_parts(tmp_path):
    for name, entry in STAGES.items():
        if entry.needs:
            with pytest.raises(CheckpointError, match=f"stage {name} needs"):
                prepare_parts(entry, presets.MINI, None, [tmp_path])
