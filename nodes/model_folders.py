"""Lists the files in the pack's model folders, and checks the paths to them.

Names come from workflows and links may come with models, and neither can be trusted. So a name must not leave its
folder, and a file must lie, once links are resolved, in one of ComfyUI's model folders. Those named in
extra_model_paths.yaml count, and the folders themselves may be links.
"""

from __future__ import annotations

import json
import logging
import os
import reprlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..seada_core.files.weight_headers import CheckpointError
from ..seada_core.hints import palettes
from ..seada_core.weights import part_files

EMBEDDED = "embedded"
FOLDER = "seada"  # below ComfyUI's models/
CAPTIONERS = "seada_captioners"  # likewise
PALETTES = "seada_palettes"  # likewise
SEGMENTERS = "seada_segmenters"  # likewise
TOP = "models/seada itself"  # part files directly in that folder, not in a subfolder


def _roots() -> Iterator[Path]:
    """All folders that ComfyUI takes models from, with links resolved."""
    yield Path(os.path.realpath(folder_paths.models_dir))
    for kind, (folders, _) in folder_paths.folder_names_and_paths.items():
        if kind != "custom_nodes":
            yield from (Path(os.path.realpath(folder)) for folder in folders)


def check_inside(path: Path) -> Path:
    """The path. Raises CheckpointError if it, or a file in it, is a link to outside the model folders."""
    roots = set(_roots())
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else []
    for file in [path, *files]:
        target = Path(os.path.realpath(file))
        if roots.isdisjoint([target, *target.parents]):
            raise CheckpointError(
                f"{file} is a link to {target}, outside ComfyUI's model folders; put the file itself there, or name "
                "its folder in extra_model_paths.yaml"
            )
    return path


def _entry(kind: str, name: str) -> Path | None:
    """The file or folder with this name in a kind's folders, or None.

    Raises CheckpointError for a name or a link to outside them.
    """
    # separators and absolute paths of both POSIX and Windows
    steps = str(name).replace("\\", "/").split("/")
    if not isinstance(name, str) or "\0" in name or ".." in steps or steps[0] == "" or ":" in steps[0]:
        raise CheckpointError(f"{reprlib.repr(name)} is not in {_folders(kind)}; choose from the list")
    for root in folder_paths.get_folder_paths(kind):
        path = Path(root) / name
        if os.path.exists(path):
            return check_inside(path)
    return None


def register_model_folder() -> None:
    """Adds the pack's folders in models/ to ComfyUI's; extra_model_paths.yaml may add more."""
    for name in (FOLDER, CAPTIONERS, PALETTES, SEGMENTERS):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def part_file_names() -> list[str]:
    """The safetensors files below models/seada, "embedded" first."""
    names = folder_paths.get_filename_list(FOLDER)
    return [EMBEDDED, *(name for name in names if name.endswith(".safetensors"))]


def models() -> list[str]:
    """The folders of models/seada that hold part files, "embedded" first."""
    folders = {os.path.dirname(name) for name in part_file_names()[1:] if Path(name).stem in part_files.SECTIONS}
    return [EMBEDDED, *(folder or TOP for folder in sorted(folders))]


def part_file(name: str, part: str) -> Path:
    """The file behind an entry of `part_file_names`."""
    if name == EMBEDDED:
        return part_files.EMBEDDED / f"{part}.safetensors"
    path = _entry(FOLDER, name)
    if path is None or not path.is_file():
        raise CheckpointError(
            f"no file {reprlib.repr(name)[1:-1]} in {_folders()}; put it there, or choose {EMBEDDED!r}"
        )
    return path


def model_folder(name: str) -> Path:
    """The folder behind an entry of `models`."""
    if name == EMBEDDED:
        return part_files.EMBEDDED
    folder = _entry(FOLDER, "." if name == TOP else name)
    if folder is None or not folder.is_dir():
        what = f"no folder {reprlib.repr(name)[1:-1]} in {_folders()}"
        raise CheckpointError(f"{what}; put part files there, or choose {EMBEDDED!r}")
    return folder


def captioners() -> list[str]:
    """The safetensors files and the folders in models/seada_captioners."""
    names = folder_paths.get_filename_list(CAPTIONERS)
    return sorted({name.replace(os.sep, "/").split("/")[0] for name in names if name.endswith(".safetensors")})


def captioner_path(name: str) -> Path:
    """The file or folder behind an entry of `captioners`."""
    path = _entry(CAPTIONERS, name)
    if path is None:
        what = f"no captioner {reprlib.repr(name)[1:-1]} in {_folders(CAPTIONERS)}"
        raise CheckpointError(f"{what}; put it there, or choose another")
    return path


def segmenters() -> list[str]:
    """The folders of models/seada_segmenters that hold a CLIPSeg model."""
    configs = (file for root in folder_paths.get_folder_paths(SEGMENTERS) for file in Path(root).glob("*/config.json"))
    return sorted({file.parent.name for file in configs if _is_clipseg(file)})


def _is_clipseg(config: Path) -> bool:
    try:
        if not check_inside(config).is_file() or config.stat().st_size > palettes.MAX_BYTES:
            return False
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # CheckpointError is a ValueError
        return False
    return isinstance(content, dict) and content.get("model_type") == "clipseg"


def segmenter_path(name: str) -> Path:
    """The folder behind an entry of `segmenters`."""
    path = _entry(SEGMENTERS, name)
    if path is None or not path.is_dir():
        what = f"no CLIPSeg folder {reprlib.repr(name)[1:-1]} in {_folders(SEGMENTERS)}"
        raise CheckpointError(f"{what}; put it there, or choose another source")
    return path


def palette_files() -> list[Path]:
    """The .json files of models/seada_palettes, in order of name."""
    folders = (Path(root) for root in folder_paths.get_folder_paths(PALETTES))
    return [file for folder in folders for file in sorted(folder.glob("*.json")) if file.is_file()]


def schemes() -> tuple[dict[str, palettes.Scheme], list[str]]:
    """The colour schemes by name, including the user's, and the errors of the files that were skipped."""
    return _schemes(tuple(palette_files()), palette_fingerprint())


def palette_fingerprint() -> str:
    """Changes when the user's palette files do."""
    stats = ((file, file.stat()) for file in palette_files())
    return ",".join(f"{file}:{stat.st_mtime_ns}:{stat.st_size}" for file, stat in stats)


@lru_cache(maxsize=1)
def _schemes(files: tuple[Path, ...], stamp: str) -> tuple[dict[str, palettes.Scheme], list[str]]:
    good, faults = [], []
    for file in files:
        try:
            palettes.read_schemes(check_inside(file))
            good.append(file)
        except ValueError as error:
            logging.warning("SeAda Palette Bank skips a file: %s", error)
            faults.append(str(error))
    return palettes.load_schemes(*good), faults


def _folders(name: str = FOLDER) -> str:
    return " or ".join(folder_paths.get_folder_paths(name))


def fingerprint(name: str) -> str:
    """Changes when a file of the model does, so that ComfyUI reloads it."""
    path = model_folder(name) if name in models() else part_file(name, "")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files)
