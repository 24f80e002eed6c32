"""Reading a captioner's weights and configuration from files."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from ...files.weight_headers import PICKLES, expect, pickle_text, read_header


def read_safetensors(path: Path, kinds: tuple[str, ...], what: str) -> dict[str, Tensor]:
    """A captioner's weights. Raises ValueError if they belong to a model not in `kinds`, or are damaged."""
    if not path.is_file():
        pickles = [file for file in path.parent.glob(f"*{path.stem.split('_')[-1]}*") if file.suffix in PICKLES]
        raise ValueError(pickle_text(pickles[0]) if pickles else f"no {path.name} in {path.parent}; put it there")
    expect(read_header(path), kinds, what)
    return {name.removeprefix("module."): tensor for name, tensor in load_file(path).items()}


def _read_config(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}; put it there")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load all of `weights` except the attention masks that older releases stored."""
    masks = ("attn_mask", ".attn.bias", ".attn.masked_bias")
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(f"{path} does not fit this model: {lines[min(1, len(lines) - 1)].strip()}") from error
    unexpected = [key for key in unexpected if not key.endswith(masks)]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit this model: missing {missing[:3]}, unexpected {unexpected[:3]}")
