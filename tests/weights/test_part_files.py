"""Part files: round trip, metadata, and every way in which a file can be the wrong one."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from seada_core.files.weight_headers import CheckpointError
from seada_core.weights import part_files


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewrite(source, target, tensors=None, **changes):
    """A copy of a part file with other tensors or metadata."""
    meta = {**metadata(source), **{f"seada.{name}": value for name, value in changes.items()}}
    save_file(tensors or load_file(source), target, {k: v for k, v in meta.items() if v is not None})
    return target


def test_a_preset_is_read_without_weights(tiny_preset, tiny_model, tmp_path):
    preset = part_files.read_preset(tiny_model / "unet.safetensors", "unet")
    assert (preset.unet, preset.sampling) == (tiny_preset.unet, tiny_preset.sampling)
    with pytest.raises(CheckpointError, match="holds the part 'unet', expected 'vq_decoder'"):
        part_files.read_preset(tiny_model / "unet.safetensors", "vq_decoder")
    with pytest.raises(CheckpointError, match="no unet file"):
        part_files.read_preset(tmp_path / "unet.safetensors", "unet")


def test_round_trip(tiny_preset, tmp_path):
    module = part_files.build("controlnet_rca", tiny_preset)
    path = tmp_path / "controlnet_rca.safetensors"
    part_files.save_part(path, "controlnet_rca", tiny_preset, module)
    loaded, preset = part_files.load_part(path, "controlnet_rca")
    assert preset.control == tiny_preset.control and preset.unet == tiny_preset.unet and preset.name == "tiny"
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing temporary left


def test_half_precision_keeps_integers(tiny_model, tmp_path):
    part_files.convert(tiny_model, tmp_path, torch.float16)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in tiny_model.iterdir()}
    before, after = (load_file(f / "vq_decoder.safetensors") for f in (tiny_model, tmp_path))
    for name, tensor in before.items():
        wanted = tensor.half() if tensor.is_floating_point() else tensor
        assert torch.equal(after[name], wanted)


def test_metadata_describes_the_part(tiny_model):
    meta = metadata(tiny_model / "semantic_encoder.safetensors")
    config = json.loads(meta["seada.config"])
    assert (meta["seada.part"], meta["seada.preset"], meta["seada.version"]) == ("semantic_encoder", "tiny", "1")
    assert config["text"]["width"] == 32 and len(config["vocabulary"]) > 3


@pytest.mark.parametrize(
    "fault, message",
    [
        ("missing", "does not exist"),
        ("garbage", "not a readable safetensors"),
        ("truncated", "not a readable safetensors"),
        ("foreign", "not a SeAda part file"),
        ("part", "holds the part 'unet', expected 'vq_decoder'"),
        ("version", "format version 99"),
        ("nan", "not finite"),
        ("config", "broken seada.config"),
        ("unknown field", "broken seada.config"),
        ("shape", "does not fit its own configuration"),
    ],
)
def test_wrong_files_are_named(tiny_model, tmp_path, fault, message):
    good, bad = tiny_model / "vq_decoder.safetensors", tmp_path / "vq_decoder.safetensors"
    tensors = load_file(good)
    name = next(n for n, t in tensors.items() if t.ndim == 4)
    if fault == "garbage":
        bad.write_bytes(b"not a model" * 100)
    elif fault == "truncated":
        bad.write_bytes(good.read_bytes()[:-1000])
    elif fault == "foreign":
        save_file(tensors, bad)
    elif fault == "part":
        bad = tiny_model / "unet.safetensors"
    elif fault == "version":
        rewrite(good, bad, version="99")
    elif fault == "nan":
        rewrite(good, bad, {**tensors, name: torch.full_like(tensors[name], float("nan"))})
    elif fault == "config":
        rewrite(good, bad, config="{")
    elif fault == "unknown field":
        config = json.loads(metadata(good)["seada.config"])
        rewrite(good, bad, config=json.dumps({"codec": {**config["codec"], "colour": 1}}))
    elif fault == "shape":
        rewrite(good, bad, {**tensors, name: tensors[name][:1].clone()})
    with pytest.raises(CheckpointError, match=message) as error:
        part_files.load_part(bad, "vq_decoder")
    assert "\n" not in str(error.value)


def test_unknown_model_and_part(tiny_preset, tmp_path):
    with pytest.raises(CheckpointError, match="unknown model 'maxi'"):
        part_files.model_folder("maxi")
    with pytest.raises(CheckpointError, match="unknown part"):
        part_files.build("wheel", tiny_preset)
    assert part_files.model_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("part", part_files.SECTIONS)
def test_a_loaded_part_has_all_of_its_tensors(part):
    """Built without memory and then filled: nothing may be left without, be it a weight, a buffer or a constant."""
    file = part_files.EMBEDDED / f"{part}.safetensors"
    module, _ = part_files.load_part(file, part)
    for holder in module.modules():
        own = vars(holder) | dict(holder.named_parameters(recurse=False)) | dict(holder.named_buffers(recurse=False))
        constants = [vars(value) for value in own.values() if hasattr(value, "__dict__")]
        for values in (own, *constants):
            assert not [name for name, v in values.items() if isinstance(v, torch.Tensor) and v.is_meta]
