"""Inspects a weights file by its header: names, shapes, and which model it belongs to. No tensor is read."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# bytes: parsing takes some 30 times as much memory; a checkpoint's header has 0.3 MB, the largest of LoRAs a few
_LARGEST_HEADER = 16_000_000
_BITS = {"BOOL": 8, "C64": 64, "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
_BITS |= {f"{sign}{bits}": bits for sign in "IU" for bits in (8, 16, 32, 64)} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class CheckpointError(ValueError):
    """A weights file is missing, of another model, or damaged; the message says which and what to do."""


@dataclass(frozen=True)
class Header:
    """Shapes, metadata and data types (safetensors' names) of a safetensors file."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)

    def has(self, pattern: str) -> bool:
        """Whether a name matches, from its start."""
        return any(map(re.compile(pattern).match, self.shapes))


@dataclass(frozen=True)
class Kind:
    """The model that a file's weights belong to: a short name for code, and a description for messages."""

    name: str
    text: str


def read_header(path: Path | str) -> Header:
    """The header of a safetensors file, checked to be complete: its tensors fill the file without overlaps.

    Raises:
        CheckpointError: no such file; a pickle; a web page or git-lfs pointer in place of the weights; an interrupted
            download; a header that is invalid, inconsistent or larger than any model's; anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder, expected a file" if path.is_dir() else f"{path} does not exist")
    try:
        with path.open("rb") as file:
            start = file.read(8)
            _refuse_others(path, start + file.read(504))
            size, length = path.stat().st_size, int.from_bytes(start, "little")
            if length > size - 8 and length <= _LARGEST_HEADER:
                raise CheckpointError(_cut_off(path, size, "at least", 8 + length))
            if length > size - 8:
                raise ValueError("its header is not a safetensors header")
            if length > _LARGEST_HEADER:
                raise ValueError(f"its header has {length:,} bytes, more than the {_LARGEST_HEADER:,} allowed")
            file.seek(8)
            header, end = _parse(path, file.read(length), 8 + length)
    except OSError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "its header is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path} is not a readable safetensors file: {reason}; download it again") from None
    if size != end:
        raise CheckpointError(
            _cut_off(path, size, "", end)
            if size < end
            else f"{path} is not a readable safetensors file: {size - end:,} bytes follow its last tensor"
        )
    return header


def _parse(path: Path, text: bytes, start: int) -> tuple[Header, int]:
    """A header's JSON, and where the file must end; `start` is where its tensors begin. Raises ValueError."""
    try:
        entries = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError):
        entries = None
    if not isinstance(entries, dict):
        raise ValueError("its header is not a safetensors header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text by name")
    places = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its header is not a safetensors header at {reprlib.repr(name)}")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise ValueError(f"{reprlib.repr(name)} has the unknown data type {reprlib.repr(dtype)}")
        if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2 or len(shape) > 32:
            raise ValueError(f"{reprlib.repr(name)} has no shape or place that a tensor can have")
        if 8 * (place[1] - place[0]) != _BITS[dtype] * math.prod(shape):
            raise ValueError(f"{reprlib.repr(name)} does not have the bytes that its shape and data type need")
        places.append((place[0], place[1], name))
    end = 0
    for first, last, name in sorted(places):
        if first != end:
            raise ValueError(f"{reprlib.repr(name)} {'overlaps' if first < end else 'does not follow'} another tensor")
        end = last
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    return Header(path, shapes, metadata, {name: entry["dtype"] for name, entry in entries.items()}), start + end


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("its header names something twice")
    return result


def _refuse_constant(text: str) -> None:
    raise ValueError(f"its header holds {text}, which is not a number")


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _cut_off(path: Path, found: int, at_least: str, expected: int) -> str:
    size = " ".join(filter(None, (at_least, f"{expected:,}")))
    return (
        f"{path} is not a readable safetensors file: it has {found:,} bytes and its header expects {size}: the "
        "download was interrupted; download it again"
    )


def _refuse_others(path: Path, start: bytes) -> None:
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer, not the weights that it points to; run `git lfs pull` in its repository, or "
            "download the file itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path} is a web page, saved in place of the weights; download the file itself (a login or a licence may "
            "have to be agreed to first)"
        )
    if text.startswith((b'{"error', b'{"message', b"entry not found", b"access to model", b"invalid username")):
        raise CheckpointError(f"{path} is a server's error message, saved in place of the weights; download it again")
    safetensors = start[8:9] == b"{"  # preceded by a length, which may be any bytes
    if not safetensors and (re.match(rb"PK\x03\x04|\x80[\x02-\x05]", start) or path.suffix in PICKLES):
        raise CheckpointError(pickle_text(path))
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path} holds quantised GGUF weights, which are not read; use the .safetensors release")
    if not start:
        raise CheckpointError(f"{path} is not a readable safetensors file: it is empty; download it again")


def pickle_text(path: Path) -> str:
    """Why a pickle is refused, and what to do instead."""
    return (
        f"{path} is a pickle, which can run any program as it is loaded, so it is refused: use the .safetensors "
        "release of the same weights, or convert it as docs/weights.md says"
    )


# --- which model ------------------------------------------------------------------------------------------------------

_LORA = r".*(lora_up|lora_down|lora_A|lora_B|\.lora\.|hada_w1|lokr_w1|oft_blocks|dora_scale|glora)|lora_"
_OTHERS = (  # name, pattern of a characteristic tensor's name, description
    ("sdxl", r"conditioner\.embedders\.", "a Stable Diffusion XL checkpoint"),
    ("sdxl", r"(model\.diffusion_model\.|control_model\.)?label_emb\.", "of Stable Diffusion XL's kind"),
    ("sdxl", r"add_embedding\.linear_1\.", "of Stable Diffusion XL's kind, in diffusers' names"),
    ("sd3", r"(model\.diffusion_model\.)?joint_blocks\.", "a Stable Diffusion 3 model"),
    ("sd3", r"transformer_blocks\.\d+\.norm1_context\.linear", "a Stable Diffusion 3 or Flux transformer"),
    ("flux", r"(model\.diffusion_model\.)?(double_blocks|single_blocks|double_stream_)", "a Flux model"),
    ("sd2", r"cond_stage_model\.model\.", "a Stable Diffusion 2 checkpoint"),
    ("animatediff", r".*\.motion_modules\.|.*temporal_transformer\.", "an AnimateDiff motion module"),
    ("ip-adapter", r"(image_proj|ip_adapter)\.", "an IP-Adapter"),
    ("t2i-adapter", r"(adapter\.)?body\.\d+\.(block1|in_conv|resnets)", "a T2I-Adapter"),
    ("control-lllite", r"lllite_", "a ControlNet-LLLite"),
    ("control-lora", r"lora_controlnet", "a Control-LoRA"),
    ("transformer", r"(model\.diffusion_model\.)?(blocks|layers|transformer_blocks)\.\d+\.", "a diffusion transformer"),
)
_KINDS = (
    ("controlnet", r"(control_model\.)?input_hint_block\.|controlnet_cond_embedding\.", "a ControlNet"),
    ("checkpoint", r"model\.diffusion_model\.input_blocks\.", "a single-file checkpoint"),
    ("unet", r"input_blocks\.\d|down_blocks\.\d+\.resnets\.\d+\.time_emb_proj\.", "a UNet alone"),
    ("clipcap", r"clip_project\.", "a ClipCap"),
    ("coca", r"(module\.)?text_decoder\.", "a CoCa of open_clip"),
    ("vae", r"(first_stage_model\.|vae\.)?encoder\.(down\.|down_blocks\.)", "a VAE"),
    ("clip", r"(module\.)?(visual|text_model|vision_model)\.", "a CLIP"),
    ("taesd", r"(encoder\.layers\.)?\d+\.(conv\.)?\d*\.?(weight|bias)$", "an encoder or decoder of TAESD's kind"),
)


def kind(header: Header) -> Kind:
    """The model that a file's weights belong to, by characteristic names and shapes; "unknown" if none match."""
    if "seada.part" in header.metadata:
        part = header.metadata["seada.part"]
        return Kind(f"part {part}", f"a SeAda part file ({reprlib.repr(part)[1:-1]})")
    if header.has(_LORA):
        return Kind("lora", "a LoRA: a change to a model, not a model")
    if header.has(r"emb_params$|string_to_param|clip_[lg]$") and len(header.shapes) < 8:
        return Kind("embedding", "a textual inversion embedding")
    for name, pattern, text in _OTHERS:
        if header.has(pattern):
            return Kind(name, text)
    if header.has(r"difference$"):
        return Kind("control-difference", "a ControlNet stored as the difference to a model")
    for name, pattern, text in _KINDS:
        if header.has(pattern):
            return _with_width(header, Kind(name, text))
    first = reprlib.repr(next(iter(header.shapes), "none"))
    return Kind("unknown", f"of an unknown model (its first tensor is {first})")


def _with_width(header: Header, found: Kind) -> Kind:
    """The family of a UNet, or of a copy of its encoder, from the width of the texts that it attends to."""
    if found.name not in ("controlnet", "checkpoint", "unet"):
        return found
    widths = {s[-1] for name, s in header.shapes.items() if name.endswith("attn2.to_k.weight") and s}
    if 1024 in widths:
        return Kind("sd2", f"{found.text} of Stable Diffusion 2 (texts 1024 wide)")
    if 2048 in widths or 1280 in widths:
        return Kind("sdxl", f"{found.text} of Stable Diffusion XL (texts {max(widths)} wide)")
    return found


def expect(header: Header, wanted: Iterable[str], what: str) -> Kind:
    """The file's kind, which must be one of `wanted`.

    Raises:
        CheckpointError: naming what the file is instead of `what`.
    """
    found = kind(header)
    if found.name in wanted:
        return found
    raise CheckpointError(f"{header.path} is {found.text}; expected {what}{_WAYS_OUT.get(found.name, '')}")


_WAYS_OUT = {
    "lora": ". Merge the LoRA into a checkpoint first, or use it with ComfyUI's LoRA loader",
    **dict.fromkeys(
        ("sdxl", "sd2", "sd3", "flux", "transformer"),
        ". Its latents and texts are different: use a Stable Diffusion 1.5 model, or put its results through "
        "SeAda Merge Luminance",
    ),
}
