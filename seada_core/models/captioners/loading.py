"""Detects which captioner a file or folder holds, and loads it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...files.weight_headers import expect, read_header
from .blip import _load_blip
from .clipcap import load_clipcap
from .coca import _load_coca
from .reading import _read_config


def load_captioner(
    kind: str, path: str | Path, *, config: str | None = None, beams: int = 1, max_tokens: int = 30
) -> nn.Module:
    """A captioner in eval mode from local files: images (B, 3, H, W) in [0, 1] -> B captions.

    kind    path
    coca    a .safetensors file of an open_clip CoCa (`config` names it, else its shapes do), or a folder with
            open_clip_config.json and open_clip_model.safetensors
    blip    a transformers folder: config.json, model.safetensors, tokenizer files
    blip2   likewise
    clipcap a folder: clipcap.safetensors (the released clip_project.* and gpt.*), clip.safetensors (open_clip's
            `config`, else ViT-B-32-quickgelu or RN50x4-quickgelu by its shapes), GPT-2's vocab.json and merges.txt

    Raises ValueError if a file is missing or belongs to another model.
    """
    path, options = Path(path), {"beams": beams, "max_tokens": max_tokens}
    if kind not in ("coca", "blip", "blip2", "clipcap"):
        raise ValueError(f"unknown captioner {kind!r}; choose coca, blip, blip2 or clipcap")
    if not path.exists():
        raise ValueError(f"no {kind} captioner at {path}; nothing is downloaded, put its files there first")
    captioner: nn.Module
    if kind == "coca":
        captioner = _load_coca(path, config, options)
    elif kind == "clipcap":
        captioner = load_clipcap(path, config, options)
    else:
        captioner = _load_blip(kind, path, options)
    return captioner.eval()


def captioner_kind(path: str | Path) -> str:
    """The kind of captioner at a path, as in `load_captioner`, detected from its contents.

    Raises ValueError if it is not a captioner.
    """
    path = Path(path)
    if path.is_file():
        return expect(read_header(path), ("coca",), "a CoCa of open_clip, or a captioner's folder").name
    if (path / "open_clip_model.safetensors").is_file():
        return "coca"
    if (path / "clipcap.safetensors").is_file():
        return "clipcap"
    kind = _read_config(path / "config.json").get("model_type")
    if kind not in ("blip", "blip-2"):
        raise ValueError(f"{path} holds a {kind!r} model; expected CoCa, BLIP, BLIP-2 or ClipCap")
    return kind.replace("-", "")
