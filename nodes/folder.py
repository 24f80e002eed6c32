"""A folder of photos, one by one."""

from __future__ import annotations

import logging
import os
import reprlib
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..seada_core.files import folders, pictures
from . import bridge
from .photo import inside, load

SHOWN_FOLDERS = 8  # in a message


class SeAdaLoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaLoadFolder",
            display_name="SeAda Load Folder",
            category="SeAda",
            search_aliases=["batch photos", "load images from folder", "folder of photos"],
            description="Loads the photos of a folder, each at its own size; the nodes that follow run once per photo. "
            "Files that cannot be read are skipped and listed in REPORT.",
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder inside ComfyUI's input folder. Empty: the input folder itself.",
                ),
                io.Int.Input(
                    "first", default=0, min=0, max=1_000_000, tooltip="How many files to skip, in order of name."
                ),
                io.Int.Input(
                    "count",
                    default=50,
                    min=0,
                    max=1_000_000,
                    tooltip="How many files to load at most; all are held in memory, and coloured before the first is "
                    "saved, so smaller numbers show results sooner. 0: no limit.",
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
    def fingerprint_inputs(cls, folder: str, first: int, count: int) -> str:
        files, _ = _files(folder, first, count)
        return ",".join(f"{file.name}:{file.stat().st_mtime_ns}" for file in files)

    @classmethod
    def execute(cls, folder: str, first: int, count: int) -> io.NodeOutput:
        files, total = _files(folder, first, count)
        show = bridge.progress(len(files))
        images, names, photos, faults = [], [], [], []
        for i, file in enumerate(files, 1):
            try:
                image, _, photo = load(file)
                images.append(image)
                photos.append(photo)
                names.append(file.stem)
            except pictures.PictureError as error:
                logging.warning("SeAda Load Folder skips %s", error)
                faults.append(str(error))
            show(i, len(files))
        if not images:
            raise ValueError("none of the files could be read:\n" + "\n".join(faults))
        lines = [f"{len(images)} of the folder's {total} photos read"]
        lines += [f"skipped: {fault}" for fault in faults]
        if first + len(files) < total:
            lines.append(f"to load the next ones, set first to {first + len(files)}")
        return io.NodeOutput(images, names, "\n".join(lines), photos)


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
