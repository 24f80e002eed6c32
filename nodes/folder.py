"""A folder of photos, one by one."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass, field
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..seada_core.files import folders, pictures
from . import bridge, inputs, runs
from .photo import inside, load, provide_samples

SHOWN_FOLDERS = 8  # in a message
LISTED_FOLDERS = 1000
ROOT = "."  # the choice for the input folder itself


@dataclass
class _Round:
    """The photos of a folder that are loaded in one run each."""

    files: list[Path]
    at: int = 0  # files that were read or skipped
    last: Path | None = None  # the file that was read last
    faults: list[str] = field(default_factory=list)


# by what `bridge.execution` says of the run that goes on with it
_rounds: dict[tuple[str, str, int | None], _Round] = {}


class SeAdaLoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaLoadFolder",
            display_name="SeAda Load Folder",
            category="SeAda",
            search_aliases=["batch photos", "load images from folder", "folder of photos"],
            description="Loads the photos of a folder, each at its own size, and runs what follows once per photo. "
            "Files that cannot be read are skipped and listed in REPORT.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=_choices(),
                    default=ROOT,
                    tooltip="A folder in ComfyUI's input folder, or . for the input folder itself. Press R to see new "
                    "folders.",
                ),
                io.Int.Input(
                    "first",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="How many files to skip, in order of name: after an interruption, those that are done.",
                ),
                inputs.with_word(
                    io.Int.Input(
                        "count",
                        default=0,
                        min=0,
                        max=1_000_000,
                        tooltip="How many files to load at most. 0: all.",
                    ),
                    zero="all",
                ),
                io.Boolean.Input(
                    "one_by_one",
                    display_name="one by one",
                    default=True,
                    optional=True,
                    tooltip="On: each photo is a run of its own, and saved as soon as it is done. Off: all are loaded "
                    "into memory at once, for nodes that need the whole list.",
                ),
            ],
            outputs=[
                io.Image.Output(id="images", display_name="IMAGE", is_output_list=True, tooltip="The photos."),
                io.String.Output(
                    id="names",
                    display_name="NAME",
                    is_output_list=True,
                    tooltip="The file names without extension, for example for Save Image's filename_prefix.",
                ),
                io.String.Output(
                    id="report",
                    display_name="REPORT",
                    tooltip="How many photos were loaded, and which files were skipped and why.",
                ),
                bridge.SeadaPhoto.Output(
                    id="photos",
                    display_name="PHOTO",
                    is_output_list=True,
                    tooltip="What else the files hold, for SeAda Save Photo.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None, input_types: dict[str, str]) -> bool | str:
        # a path that is not among the choices is fine, as is one from a node for texts; `execute` names what is missing
        kind = input_types.get("folder", "COMBO")
        return kind in ("COMBO", "STRING", "*") or f"folder: expected a text, got {kind}"

    @classmethod
    def fingerprint_inputs(cls, folder: str, first: int, count: int, one_by_one: bool = False) -> str | float:
        if one_by_one:
            return float("nan")  # equal to nothing: each run has another photo
        files, _ = _files(folder, first, count)
        return ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files)

    @classmethod  # prompts from before `one_by_one` lack it, and expect all photos in one run
    def execute(cls, folder: str, first: int, count: int, one_by_one: bool = False) -> io.NodeOutput:
        if one_by_one:
            return _next_photo(folder, first, count)
        files, total = _files(folder, first, count)
        show = bridge.progress(len(files))
        loaded, faults = [], []
        for i, file in enumerate(files, 1):
            try:
                image, _, photo = load(file)
                loaded.append((image, file.stem, photo))
            except pictures.PictureError as error:
                faults.append(str(error))
            show(i, len(files))
        if not loaded:
            raise ValueError("none of the files could be read:\n" + "\n".join(faults))
        lines = [f"{len(loaded)} of the folder's {total} photos read", *_skipped(faults)]
        if first + len(files) < total:
            lines.append(f"to load the next ones, set first to {first + len(files)}")
        images, names, photos = map(list, zip(*loaded, strict=True))
        return io.NodeOutput(images, names, "\n".join(lines), photos, ui=bridge.warned(faults))


def _next_photo(folder: str, first: int, count: int) -> io.NodeOutput:
    """The next photo that can be read; the run is repeated for the one after it."""
    prompt, node, index = bridge.execution()
    this = _rounds.pop((prompt, node, index), None)
    begins = this is None
    this = this or _Round(_files(folder, first, count)[0])
    # beside a longer folder, a folder that is done repeats its last photo, as lists do
    before, loaded = len(this.faults), load(this.last) if this.last and this.at == len(this.files) else None
    while loaded is None and this.at < len(this.files):
        file = this.files[this.at]
        this.at += 1
        try:
            loaded, this.last = load(file), file
        except pictures.PictureError as error:
            this.faults.append(str(error))
    if begins and loaded is None:
        raise ValueError("none of the files could be read:\n" + "\n".join(this.faults))
    runs.run_again(lambda following: _rounds.update({(following, node, index): this}), this.at < len(this.files))
    warnings = bridge.warned(this.faults[before:])
    if loaded is None:  # the last files cannot be read: nothing that follows runs
        none, report = ExecutionBlocker(None), "\n".join(_skipped(this.faults))
        return io.NodeOutput(none, none, report, none, ui=warnings)
    image, _, photo = loaded
    position = f"photo {this.at} of {len(this.files)}: {photo.name}{photo.suffix}"
    bridge.show_text(position)
    report = "\n".join([position, *_skipped(this.faults)])
    return io.NodeOutput([image], [photo.name], report, [photo], ui=warnings)


def _skipped(faults: list[str]) -> list[str]:
    return [f"skipped: {fault}" for fault in faults]


def _choices() -> list[str]:
    """ComfyUI's input folder and the folders inside it that have photos, relative to it."""
    root = Path(folder_paths.get_input_directory())
    provide_samples(root)
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if any(Path(name).suffix.lower() in pictures.SUFFIXES for name in files):
            found.append(Path(folder).relative_to(root).as_posix())
        if len(found) >= LISTED_FOLDERS:
            break
    return [ROOT, *(name for name in found if name != ROOT)]


def _files(folder: str, first: int, count: int) -> tuple[list[Path], int]:
    """The requested picture files, and the number of those in the folder. Raises ValueError if there are none."""
    root = os.path.abspath(folder_paths.get_input_directory())
    shown = reprlib.repr(folder)  # an unprintable message would crash the server's queue
    path = inside(root, folder, "input folder")
    if not os.path.isdir(path):
        there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())[:SHOWN_FOLDERS]
        advice = f"choose one of {', '.join(map(reprlib.repr, there))}" if there else "create it and put photos there"
        raise ValueError(f"there is no folder {shown} in ComfyUI's input folder, {root}; {advice}")
    found = folders.find([path])
    if first >= len(found):
        raise ValueError(f"first is {first}, and the folder has {len(found)} photos; set it to 0 to start over")
    return found[first : first + count if count else None], len(found)
