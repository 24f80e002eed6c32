"""Part files: one safetensors file a part, with metadata that says which part it is and how to build it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import presets, settings
from ..errors import one_line
from ..files import atomic, weight_headers
from ..files.weight_headers import CheckpointError, Header
from ..models.affinity import Affinity
from ..models.captioners.coca import TinyCoCa
from ..models.ccd import HintEncoder
from ..models.controlnet_rca import ControlNetRCA
from ..models.people import People
from ..models.scenery import Scenery
from ..models.semantic_adapter import SemanticAdapter, SemanticEncoder
from ..models.token_diffusion import TokenDiffusion
from ..models.tokenizer import END as CLIP_END
from ..models.tokenizer import Tokenizer
from ..models.unet import UNet
from ..models.vq_decoder import VQDecoder
from ..presets import Preset

VERSION = "1"
EMBEDDED = Path(__file__).parents[1] / "embedded"
# part -> the preset's sections that its file records
SECTIONS = {
    "unet": ("unet", "diffusion", "sampling"),
    "semantic_encoder": ("text",),
    "semantic_adapter": ("adapter",),
    "controlnet_rca": ("unet", "control"),
    "hint_encoder": ("unet", "hint"),
    "affinity": ("affinity",),
    "people": ("people",),
    "scenery": ("scenery",),
    "vq_decoder": ("codec",),
    "token_diffusion": ("tokens",),
    "captioner": ("captioner",),
}


def build(part: str, preset: Preset, tokenizer: Tokenizer | None = None) -> nn.Module:
    """A part with random weights. Parts around the UNet are built for a UNet of the preset's sizes."""
    if part == "unet":
        return UNet(preset.unet)
    if part == "semantic_encoder":
        return SemanticEncoder(preset.text, tokenizer)
    if part == "semantic_adapter":
        return SemanticAdapter(preset.adapter)
    if part == "controlnet_rca":
        return ControlNetRCA(UNet(preset.unet), preset.control)
    if part == "hint_encoder":
        return HintEncoder(UNet(preset.unet), preset.hint)
    if part == "affinity":
        return Affinity(preset.affinity)
    if part == "people":
        return People(preset.people)
    if part == "scenery":
        return Scenery(preset.scenery)
    if part == "vq_decoder":
        return VQDecoder(preset.codec)
    if part == "token_diffusion":
        return TokenDiffusion(preset.tokens)
    if part == "captioner":
        if tokenizer is None:
            raise ValueError("a captioner needs the tokenizer of its vocabulary")
        return TinyCoCa(preset.captioner, tokenizer)
    raise CheckpointError(f"unknown part {part!r}; the parts are {', '.join(SECTIONS)}")


def save_part(path: Path, part: str, preset: Preset, module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """`write_part` of a module's tensors and its tokenizer, if it has one."""
    write_part(path, part, preset, getattr(module, "tokenizer", None), module.state_dict(), dtype)


def write_part(
    path: Path,
    part: str,
    preset: Preset,
    tokenizer: Tokenizer | None,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a part file, atomically. Floating tensors are stored as `dtype`, others as they are."""
    config: dict[str, Any] = {section: settings.to_dict(getattr(preset, section)) for section in SECTIONS[part]}
    if tokenizer is not None:
        config["vocabulary"] = tokenizer.vocabulary
        config["length"] = tokenizer.length
    metadata = {
        "format": "pt",
        "seada.part": part,
        "seada.preset": preset.name,
        "seada.version": VERSION,
        "seada.config": json.dumps(config),
    }
    stored = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in tensors.items()
    }
    with atomic.replacing(path) as temporary:
        save_file(stored, temporary, metadata)


def _read_header(path: Path, part: str) -> Header:
    """The header of a part's file. Raises CheckpointError for anything wrong with it."""
    if not path.is_file():
        raise CheckpointError(f"no {part} file: {path} does not exist")
    header = weight_headers.read_header(path)
    found = header.metadata.get("seada.part")
    if found is None:
        raise CheckpointError(
            f"{path} is not a SeAda part file (its metadata has no seada.part) but {weight_headers.kind(header).text}; "
            "`python -m seada_core.convert` makes part files of other models' weights"
        )
    if found != part:
        raise CheckpointError(f"{path} holds the part {reprlib.repr(found)}, expected {part!r}")
    version = header.metadata.get("seada.version")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {str(version)[:40]}, this program reads {VERSION}; "
            "use the release that wrote it, or convert it there"
        )
    return header


def _config(header: Header, part: str) -> tuple[Preset, Tokenizer | None]:
    try:
        config = json.loads(header.metadata["seada.config"])
        sections = {
            name: settings.from_dict(type(getattr(presets.SD15, name)), config[name]) for name in SECTIONS[part]
        }
        tokenizer = _tokenizer(config["length"], config["vocabulary"]) if "length" in config else None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{header.path} has a broken seada.config: {one_line(error)}") from None
    return Preset(header.metadata.get("seada.preset", "custom")[:100], **sections), tokenizer


def _tokenizer(length: object, vocabulary: object) -> Tokenizer:
    """Raises ValueError where these are not a length and CLIP's token ids, or None for all of them."""
    if type(length) is not int or not 3 <= length <= presets.MOST_TOKENS:
        raise ValueError(f"the texts' length is {reprlib.repr(length)}")
    return Tokenizer(length, None if vocabulary is None else _vocabulary(vocabulary))


def _vocabulary(stored: object) -> list[int]:
    if (
        isinstance(stored, list)
        and all(type(token) is int and 0 <= token <= CLIP_END for token in stored)
        and len(set(stored)) == len(stored)
    ):
        return stored
    raise ValueError("the vocabulary is not a list of different tokens of CLIP's")


def read_preset(path: Path, part: str) -> Preset:
    """The preset of a part file (only the part's sections are meaningful), without reading its weights.

    Raises:
        CheckpointError: no such file, not safetensors, another part or version.
    """
    return _config(_read_header(Path(path), part), part)[0]


def read_part(path: Path, part: str) -> tuple[Preset, Tokenizer | None, dict[str, Tensor]]:
    """The preset (only the part's sections are meaningful), tokenizer and float32 tensors of a part file.

    Raises:
        CheckpointError: no such file, not safetensors, another part or version, or weights that are not finite.
    """
    header = _read_header(Path(path), part)
    return *_config(header, part), _tensors(header)


def _tensors(header: Header) -> dict[str, Tensor]:
    tensors = {}
    try:
        with safe_open(header.path, "pt") as file:
            for name in header.shapes:
                tensor = file.get_tensor(name)
                # a copy: else the weights are the file itself, which could then not be replaced everywhere
                tensors[name] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
                if tensor.is_floating_point() and not torch.isfinite(tensors[name]).all():
                    raise CheckpointError(f"{header.path} is damaged: {name} has values that are not finite")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{header.path} is not a readable safetensors file: {error}") from None
    return tensors


def plan_part(path: Path, part: str) -> tuple[Header, Preset, nn.Module]:
    """The header of a part's file, its preset sections, and the part on the meta device, which its tensors fit.

    Raises:
        CheckpointError: see `read_preset`; also tensors that do not fit the recorded configuration.
    """
    header = _read_header(Path(path), part)
    preset, tokenizer = _config(header, part)
    try:
        with torch.device("meta"), _Undrawn():  # the configuration may ask for any amount of memory
            module = build(part, preset, tokenizer)
    except Exception as error:
        problem = f"{path} has a seada.config of which no {part} can be built"
        raise CheckpointError(f"{problem}: {one_line(error)}") from None
    expected = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    wrong = sorted(name for name in shapes.keys() | header.shapes if shapes.get(name) != header.shapes.get(name))
    if wrong:
        found, wanted = header.shapes.get(wrong[0], "missing"), shapes.get(wrong[0], "not there")
        raise CheckpointError(
            f"{path} does not fit its own configuration: {len(wrong)} tensors, such as {reprlib.repr(wrong[0])[1:-1]}, "
            f"which is {found} and should be {wanted}"
        )
    for name, tensor in expected.items():
        if tensor.is_floating_point() != header.dtypes[name].startswith(("F", "BF")):
            raise CheckpointError(f"{path} holds {name} as {header.dtypes[name]}, which is not {tensor.dtype}")
    return header, preset, module


class _Undrawn(TorchFunctionMode):
    """Skips random initial weights: drawing them on the meta device imports torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            func = torch.empty
        return func(*args, **(kwargs or {}))


def load_part(path: Path, part: str) -> tuple[nn.Module, Preset]:
    """Build a part from its file, in evaluation mode and float32. Returns it and the preset sections it was built from.

    Raises:
        CheckpointError: see `plan_part` and `read_part`; the weights of a file that does not fit are not read.
    """
    header, preset, module = plan_part(path, part)
    module.load_state_dict(_tensors(header), assign=True)
    return module.eval().requires_grad_(False), preset


def model_folder(model: str) -> Path:
    """The folder of part files that `model` names: "mini" is the embedded model, anything else a path.

    Raises:
        CheckpointError: neither.
    """
    if model == "mini":
        return EMBEDDED
    if Path(model).is_dir():
        return Path(model)
    raise CheckpointError(f'unknown model {model!r}: use "mini" (the embedded model) or a folder of part files')


def convert(source: Path, target: Path, dtype: torch.dtype, parts: Iterable[str] = tuple(SECTIONS)) -> None:
    """Copy the part files of a folder to another, stored as `dtype`."""
    target.mkdir(parents=True, exist_ok=True)
    for part in parts:
        file = source / f"{part}.safetensors"
        if file.is_file():
            module, preset = load_part(file, part)
            save_part(target / file.name, part, preset, module, dtype)
