"""The command `convert`: both ways, reports, diffusers' own pipelines on what it writes, and bad usage."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sd15 import SIZES, same

from seada_core.convert.__main__ import main
from seada_core.convert.arguments import parse
from seada_core.convert.conversion import new_folder
from seada_core.convert.options import ConvertOptions
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.presets import SD15, VAEConfig
from seada_core.weights import part_files


def convert(capsys, *arguments) -> dict:
    """The JSON of a run, its exit status among it."""
    status = main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out) | {"status": status}


def reports(result) -> dict:
    return {report["part"]: report for report in result["reports"]}


PHOTO = Image.linear_gradient("L").resize((64, 64))
OPTIONS = {"prompt": "a dog", "steps": 2, "size": 64, "guidance": 2.0}


def test_a_single_file_becomes_part_files(small_sd15, tmp_path, capsys):
    result = convert(capsys, small_sd15.single_file, tmp_path / "out", *SIZES)
    assert (result["status"], result["kind"], result["error"]) == (0, "a single-file checkpoint", None)
    assert result["files"] == ["semantic_encoder.safetensors", "unet.safetensors"]
    found = reports(result)
    assert found["unet"]["loaded"] == 684 and found["no part"]["ignored"] == {
        "constants of the noise schedule": 12,
        "copies of the UNet by exponential averages": 1,
    }
    assert found["semantic_encoder"]["ignored"] == {"positions, which are computed": 1}
    assert any(note.startswith("vae: no part file has it") for note in result["notes"])
    for part, name in (("unet", "unet"), ("semantic_encoder", "text_encoder")):
        module, preset = part_files.load_part(tmp_path / "out" / f"{part}.safetensors", part)
        assert same(module, small_sd15.modules[name])
    assert preset.name == "sd15"
    again = convert(capsys, small_sd15.single_file, tmp_path / "out", *SIZES)
    assert again["status"] == 1 and "use --overwrite" in again["error"]
    assert convert(capsys, small_sd15.single_file, tmp_path / "out", *SIZES, "--overwrite")["status"] == 0


@pytest.mark.slow
def test_original_names_to_diffusers_to_parts_is_the_same_model(small_sd15, tmp_path, capsys):
    """And each form gives the same picture."""
    assert convert(capsys, small_sd15.single_file, tmp_path / "d", *SIZES, "--to", "diffusers")["status"] == 0
    assert convert(capsys, tmp_path / "d", tmp_path / "parts")["status"] == 0
    for part, name in (("unet", "unet"), ("semantic_encoder", "text_encoder")):
        module, _ = part_files.load_part(tmp_path / "parts" / f"{part}.safetensors", part)
        assert same(module, small_sd15.modules[name])
    bases = (small_sd15.diffusers, tmp_path / "d")
    pictures = [Colorizer.from_pretrained(base=base)(PHOTO, **OPTIONS) for base in bases]
    assert np.array_equal(*pictures)


@pytest.mark.slow
def test_diffusers_own_pipeline_loads_the_export_and_agrees(small_sd15, tmp_path, capsys):
    from diffusers import StableDiffusionPipeline

    result = convert(capsys, small_sd15.single_file, tmp_path / "d", *SIZES, "--to", "diffusers")
    assert result["notes"] == []
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "d", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae"):
        assert same(getattr(pipeline, name), small_sd15.modules[name])
    colorizer = Colorizer.from_pretrained(base=tmp_path / "d")
    context, uncond = colorizer.context(["a red dog, 1975"]), colorizer.context([""])
    theirs = pipeline.encode_prompt("a red dog, 1975", "cpu", 1, True)
    torch.testing.assert_close(context, theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(uncond, theirs[1], rtol=1e-4, atol=1e-5)
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(3))[None]
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "height": 128, "width": 128, "eta": 0.0}
    latent = pipeline("a red dog, 1975", latents=noise, output_type="latent", **options).images
    options = ColorizeOptions(steps=4, guidance=2.0, strength=0.0, seed=3)
    ours = colorizer.sample(torch.zeros(1, 1, 128, 128), context, uncond, options)
    torch.testing.assert_close(ours, latent, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_what_diffusers_cannot_express_lies_beside(small_sd15, tmp_path, capsys):
    arguments = (small_sd15.parts, tmp_path / "d", "--to", "diffusers", "--base", small_sd15.diffusers)
    result = convert(capsys, *arguments)
    assert result["status"] == 0
    named = {note.split(" is a part file")[0] for note in result["notes"]}
    assert named == {"semantic_adapter", "controlnet_rca", "hint_encoder"}
    assert {file.name for file in (tmp_path / "d" / "seada").iterdir()} == {f"{n}.safetensors" for n in named}
    assert {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"} <= set(result["files"])
    again = Colorizer.from_pretrained(str(tmp_path / "d" / "seada"), base=tmp_path / "d")
    expected = Colorizer.from_pretrained(str(small_sd15.parts), base=small_sd15.diffusers)
    assert np.array_equal(again(PHOTO, **OPTIONS), expected(PHOTO, **OPTIONS))


def test_the_embedded_model_as_diffusers_folder(tmp_path, capsys):
    from diffusers import UNet2DConditionModel

    result = convert(capsys, "mini", tmp_path / "d", "--to", "diffusers")
    assert result["status"] == 0
    assert "no model_index.json: a pipeline needs vae and text_encoder and tokenizer too" in result["notes"]
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "d" / "unet")
    kept, _ = part_files.load_part(part_files.EMBEDDED / "unet.safetensors", "unet")
    assert same(unet, kept)
    again = Colorizer.from_pretrained(str(tmp_path / "d" / "seada"), base=tmp_path / "d")
    assert again.preset.diffusion == Colorizer.from_pretrained("mini").preset.diffusion
    options = OPTIONS | {"guidance": 1.0, "saturation": 1.0}
    assert np.array_equal(again(PHOTO, **options), Colorizer.from_pretrained("mini")(PHOTO, **options))


@pytest.mark.slow
def test_a_stock_controlnet_joins_the_pipeline_or_starts_a_controller(small_sd15, tmp_path, capsys):
    from diffusers import StableDiffusionControlNetPipeline

    stock = tmp_path / "stock"
    small_sd15.modules["controlnet"].save_pretrained(stock)
    result = convert(
        capsys, small_sd15.diffusers, tmp_path / "d", "--to", "diffusers", "--control", stock, "--dtype", "float16"
    )
    assert result["status"] == 0
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "d", local_files_only=True)
    loaded = pipeline.controlnet.state_dict()
    for key, tensor in small_sd15.modules["controlnet"].state_dict().items():
        assert torch.equal(loaded[key], tensor.half().float())
    additive = ["--controller.additive"]
    for source, more in ((stock, [*SIZES]), (small_sd15.diffusers, ["--control", str(stock)])):
        result = convert(capsys, source, tmp_path / "parts", *more, *additive, "--overwrite")
        assert "embedder" in reports(result)["controlnet"]["notes"][0]
        control, preset = part_files.load_part(tmp_path / "parts" / "controlnet_rca.safetensors", "controlnet_rca")
        assert preset.control.additive and all(tensor.isfinite().all() for tensor in control.state_dict().values())
        theirs = small_sd15.modules["controlnet"].mid_block.state_dict()
        for key, tensor in control.encoder.mid_block.state_dict().items():
            assert torch.equal(tensor, theirs[key])


def test_without_out_the_report_alone_and_no_weights_read(small_sd15, tmp_path, capsys, monkeypatch):
    from seada_core.weights.state_dicts import Weights

    monkeypatch.setattr(Weights, "tensors", lambda *_: pytest.fail("the weights were read"))
    for to in ("parts", "diffusers"):
        result = convert(capsys, small_sd15.single_file, *SIZES, "--to", to)
        assert (result["status"], result["files"], result["out"]) == (0, [], None)
        assert [r["part"] for r in result["reports"]][:2] == ["unet", "semantic_encoder"]
    result = convert(capsys, small_sd15.parts)
    assert reports(result)["controlnet_rca"]["loaded"] > 400


def test_every_fault_is_in_the_report(small_sd15, tmp_path, capsys):
    tensors = load_file(small_sd15.single_file)
    del tensors["model.diffusion_model.out.2.bias"]
    tensors["model.diffusion_model.out.0.bias"] = torch.zeros(3)
    tensors["model.diffusion_model.extra"], tensors["somebody.elses"] = torch.zeros(1), torch.zeros(1)
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file)
    assert main([str(file), str(tmp_path / "out"), *SIZES]) == 1
    text = capsys.readouterr()
    assert "error: " in text.err and "does not fit unet" in text.err
    assert "missing: conv_out.bias" in text.out and "unexpected: model.diffusion_model.extra" in text.out
    assert "misshapen: model.diffusion_model.out.0.bias is [3], expected [32]" in text.out
    assert main([str(small_sd15.single_file)]) == 1  # of other sizes than SD1.5
    assert re.search(r"misshapen: 6\d\d more, which --json lists", capsys.readouterr().out)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1
    result = convert(capsys, file, tmp_path / "out", *SIZES, "--no-strict")
    assert result["status"] == 0 and reports(result)["no part"]["unexpected"] == ["somebody.elses"]
    assert reports(result)["unet"]["missing"] == ["conv_out.bias"]


def test_a_vae_and_a_controlnet_alone(small_sd15, tmp_path, capsys):
    import original_names
    from diffusers import AutoencoderKL, ControlNetModel
    from small_sd15 import ATTENTION, LAYERS

    for name, cls in (("vae", AutoencoderKL), ("controlnet", ControlNetModel)):
        state = small_sd15.modules[name].state_dict()
        original = original_names.vae(state) if name == "vae" else original_names.unet(state, LAYERS, ATTENTION)
        save_file({key: tensor.contiguous() for key, tensor in original.items()}, tmp_path / f"{name}.safetensors")
        result = convert(capsys, tmp_path / f"{name}.safetensors", tmp_path / name, *SIZES, "--to", "diffusers")
        assert result["status"] == 0
        loaded = cls.from_pretrained(tmp_path / name, local_files_only=True).state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())
    result = convert(capsys, tmp_path / "vae", tmp_path / "parts")
    assert result["status"] == 1 and "no part file has a VAE" in result["error"]
    assert not (tmp_path / "parts").exists()


def test_the_tokenizer_is_clips(tmp_path):
    """Against the vocabulary that ComfyUI carries, where there is one, and against our own tokens."""
    import comfy_server
    from transformers import CLIPTokenizer

    from seada_core.models.tokenizer import Tokenizer
    from seada_core.weights.export import save_tokenizer

    save_tokenizer(77, tmp_path / "t")
    theirs, ours = CLIPTokenizer.from_pretrained(tmp_path / "t", local_files_only=True), Tokenizer(77)
    texts = ["", "a photo of a dog", "Don't! 1975's café, naïve — 100% ÆØÅ", "word " * 200]
    ids = theirs(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    assert torch.equal(ids, ours(texts)) and theirs.model_max_length == 77
    found = comfy_server.find()
    if not isinstance(found, str):
        stock = found[0] / "comfy" / "sd1_tokenizer"
        for name, read in (("vocab.json", json.loads), ("merges.txt", str.split)):
            assert read((tmp_path / "t" / name).read_text("utf-8")) == read((stock / name).read_text("utf-8"))


def test_the_text_encoder_has_the_names_that_others_read(small_sd15, tmp_path, capsys):
    convert(capsys, small_sd15.diffusers, tmp_path / "d", "--to", "diffusers")
    with safe_open(tmp_path / "d" / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    "source, message",
    [
        ("nowhere", "does not exist; expected a diffusers folder"),
        ("some/name", "not in the local cache"),
        ("lora.safetensors", "is a LoRA"),
        ("cut.safetensors", "the download was interrupted"),
        ("empty", r"holds no unet/config\.json"),
    ],
)
def test_bad_sources_end_with_status_1_and_one_line(source, message, small_sd15, tmp_path, capsys):
    save_file({"x.lora_up.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(small_sd15.single_file.read_bytes()[:100_000])
    (tmp_path / "empty").mkdir()
    source = source if source in ("nowhere", "some/name") else tmp_path / source
    assert main([str(source), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "SOURCE"),
        (["a", "b", "--to", "ldm"], "invalid choice: 'ldm'"),
        (["a", "--unet.heads", "four"], "'four' is not a whole number"),
        (["a", "--unet.attention", "yes"], "'yes' is not True or False"),
        (["a", "--over"], "--over"),
    ],
)
def test_bad_usage_is_status_2_and_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_sizes_are_options():
    sizes = ["--unet.attention", "True", "False", "--unet.heads", "4", "--vae-sizes.scaling-factor", "0.2"]
    options = parse(["a", "b", *sizes, "--controller.additive", "--controller.no-rca", "--no-strict"])
    assert options == ConvertOptions(
        "a",
        Path("b"),
        strict=False,
        unet=replace(SD15.unet, attention=(True, False), heads=4),
        vae_sizes=VAEConfig(scaling_factor=0.2),
        controller=replace(SD15.control, additive=True, rca=False),
    )


def test_help_is_quick():
    import subprocess
    import sys

    code = "import sys; from seada_core.convert.__main__ import main; main(['--help'])\n"
    code += "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]" and "SOURCE" in done.stdout


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_there_stays_until_all_is_written(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("old")
    else:
        out.mkdir()
        (out / "old").write_text("old")
    with pytest.raises(part_files.CheckpointError, match="exists; use --overwrite"), new_folder(out):
        pass
    with pytest.raises(KeyError), new_folder(out, overwrite=True) as part:
        (part / "new").write_text("half")
        raise KeyError
    assert out.read_text() == "old" if kind == "file" else (out / "old").read_text() == "old"
    with new_folder(out, overwrite=True) as part:
        (part / "new").write_text("new")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["out", "out/new"]
