"""Where weights of Stable Diffusion are: a diffusers folder, a single file, or a hub name in the local cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..files import weight_headers
from ..files.weight_headers import CheckpointError, Header

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["*.json", "unet/*", "text_encoder/*", "vae/*", "diffusion_pytorch_model*"]
_UNWANTED = ["*.bin", "*.ckpt", "*.msgpack", "*non_ema*"]


def read_json(path: Path) -> dict:
    """A JSON object. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}; expected a whole diffusers folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not readable: it holds no JSON object")
    return content


def folder_files(folder: Path) -> list[Header]:
    """The headers of a diffusers or transformers component: its safetensors file or shards; plain before fp16.

    Raises:
        CheckpointError: there is none, or a shard is missing.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if not re.search(r"\.(fp16|non_ema|bf16)[.-]", file.name)]
    chosen = plain or [file for file in files if ".fp16" in file.name] or files
    indices = [i for i in sorted(folder.glob("*.safetensors.index*.json")) if chosen and chosen[0].name[:5] in i.name]
    if indices and not (folder / "diffusion_pytorch_model.safetensors").is_file():
        named = sorted(set(read_json(indices[0]).get("weight_map", {}).values()))
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {missing[0]}, one of {len(named)} shards; download it again")
        chosen = [folder / name for name in named]
    elif chosen:
        chosen = chosen[:1]
    if not chosen:
        pickles = [file for file in sorted(folder.glob("*")) if file.suffix in weight_headers.PICKLES]
        if pickles:
            raise CheckpointError(weight_headers.pickle_text(pickles[0]))
        raise CheckpointError(f"{folder} holds no .safetensors file")
    return [weight_headers.read_header(file) for file in chosen]


def find(path: Path | str, download: bool = False) -> Path:
    """The path of weights, given as a path or as the hub name `owner/name` of a diffusers folder in the hub's cache.

    Args:
        download: fetch a hub name that is not in the cache.
    Raises:
        CheckpointError: there is nothing at the path or in the cache.
    """
    if Path(path).exists():
        return Path(path)
    if not _HUB_NAME.fullmatch(str(path)):
        raise CheckpointError(f"{path} does not exist; expected a diffusers folder, a .safetensors file or a hub name")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            str(path), allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=not download
        )
    except (OSError, ValueError) as error:  # everything that the hub raises is one or the other
        reason = (
            f"it could not be downloaded: {str(error).splitlines()[0]}"
            if download
            else "as a hub name it is not in the local cache: give --download to fetch it, or a local path"
        )
        raise CheckpointError(f"{path} does not exist, and {reason}") from None
    return Path(folder)
