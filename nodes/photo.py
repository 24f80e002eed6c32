"""Photos in and out of the graph with what their files carry: name, EXIF, colour profile, resolution, 16 bits."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..seada_core.color.sizes import resize
from ..seada_core.files import atomic, folders, pictures
from . import bridge

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SAMPLE_FOLDER = "seada"  # in ComfyUI's input folder: where the pack's own photos are copied to
FORMATS = {"as the photo": None, "PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WebP": ".webp"}


@dataclass(frozen=True)
class Photo:
    """What a file carried besides the pixels that go through the graph; `picture` is the file as it was read."""

    name: str  # of the file, without its extension
    suffix: str  # its extension, with the dot, in lower case
    picture: pictures.Picture


class SeAdaLoadPhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaLoadPhoto",
            display_name="SeAda Load Photo",
            category="SeAda",
            search_aliases=["load photo", "open photo", "old photo", "load image", "16 bit", "tiff"],
            description="Loads a photo, turned upright, with up to 16 bits a channel. PHOTO carries its name, "
            "metadata, colour profile and bit depth to SeAda Save Photo.",
            inputs=[
                io.Combo.Input(
                    "image",
                    options=_choices(),
                    upload=io.UploadType.image,
                    tooltip="A photo in ComfyUI's input folder; those in the folder seada come with this pack.",
                )
            ],
            outputs=[
                io.Image.Output(id="photo", display_name="IMAGE", tooltip="The photo."),
                io.Mask.Output(
                    id="mask", display_name="MASK", tooltip="Where the photo is transparent; empty if it has no alpha."
                ),
                bridge.SeadaPhoto.Output(
                    id="file", display_name="PHOTO", tooltip="What else the file holds, for SeAda Save Photo."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, image: str) -> bool | str:
        try:
            found(image)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, image: str) -> str:
        status = found(image).stat()
        return f"{status.st_mtime_ns}:{status.st_size}"

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        pixels, mask, photo = load(found(image))
        return io.NodeOutput(pixels, mask, photo, ui=bridge.warned(photo.picture.notes))


class SeAdaSavePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaSavePhoto",
            display_name="SeAda Save Photo",
            category="SeAda",
            search_aliases=["save photo", "save image", "export photo", "16 bit", "tiff"],
            description="Saves pictures under their photo's name, with its metadata, colour profile, resolution and "
            "transparency; PNG and TIFF in 16 bits if the photo has them. No file is overwritten.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="as the photo",
                    tooltip="The kind of file. As the photo: its own kind, and PNG for kinds that cannot be written.",
                ),
                io.String.Input(
                    "folder",
                    default="SeAda",
                    tooltip="A folder inside ComfyUI's output folder; it is made if it does not exist.",
                ),
                io.String.Input(
                    "suffix",
                    default="-color",
                    tooltip="Added to the photo's name. A number follows if there is such a file already.",
                ),
                bridge.SeadaPhoto.Input(
                    "photo",
                    optional=True,
                    tooltip="From SeAda Load Photo or SeAda Load Folder. Not connected: PNGs with the name photo.",
                ),
            ],
            outputs=[
                io.String.Output(id="files", display_name="FILES", tooltip="The files that were written, one a line.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: Tensor, format: str, folder: str, suffix: str, photo: Photo | None = None
    ) -> io.NodeOutput:
        parent = inside(folder_paths.get_output_directory(), folder, "output folder")
        parent.mkdir(parents=True, exist_ok=True)
        rgb, shown, written = bridge.picture(images, "images"), [], []
        show = bridge.progress(len(rgb))
        for k, pixels in enumerate(rgb):
            number = f"-{k + 1:03}" if len(rgb) > 1 else ""
            path = save(pixels, parent, f"{photo.name if photo else 'photo'}{suffix}{number}", FORMATS[format], photo)
            written.append(str(path))
            if path.suffix != ".tif" and path.suffix != ".tiff":  # browsers do not show TIFF
                place = path.parent.relative_to(folder_paths.get_output_directory()).as_posix()
                shown.append({"filename": path.name, "subfolder": "" if place == "." else place, "type": "output"})
            else:
                shown.append(bridge.shown_photo(pixels[None]))
            show(k + 1, len(rgb))
        lost = [] if photo is None else pictures.losses(photo.picture, written[0])
        return io.NodeOutput("\n".join(written), ui={"images": shown} | (bridge.warned(lost) or {}))


def found(image: str) -> Path:
    """The file of a name such as "boat.tif" or "boat.png [output]". Raises ValueError for none, or one elsewhere."""
    shown = reprlib.repr(image)
    try:
        name, root = folder_paths.annotated_filepath(image)
        path = inside(root or folder_paths.get_input_directory(), name, "folders")
        there = path.is_file()
    except (AttributeError, OSError, TypeError, ValueError):  # not a text, or not a file's name
        there = False
    if not there:
        raise ValueError(f"there is no photo {shown} in ComfyUI's input folder")
    return path


def load(path: Path) -> tuple[Tensor, Tensor, Photo]:
    """IMAGE (1, H, W, 3), MASK (1, H, W; 1 where transparent) and what else a file holds. Raises PictureError."""
    picture = pictures.read(path)
    alpha = picture.alpha
    if alpha is None:
        mask = torch.zeros(1, *picture.pixels.shape[:2])
    else:
        mask = 1 - _unit(alpha)[None]
    mask = mask.to(comfy.model_management.intermediate_device())
    return image_of(picture), mask, Photo(path.stem, path.suffix.lower(), picture)


def image_of(picture: pictures.Picture) -> Tensor:
    """A photo as IMAGE (1, H, W, 3)."""
    pixels = _unit(picture.pixels)
    return bridge.image((pixels[..., None] if pixels.ndim == 2 else pixels).movedim(-1, 0)[None].expand(-1, 3, -1, -1))


def _unit(values: np.ndarray) -> Tensor:
    tensor = torch.tensor(values)
    return tensor if tensor.is_floating_point() else tensor.float() / (255 if tensor.dtype == torch.uint8 else 65535)


def save(rgb: Tensor, folder: Path, name: str, suffix: str | None, photo: Photo | None) -> Path:
    """Write a picture (3, H, W) in [0, 1] as `folder/name` under a new name, and return its path.

    It gets the photo's metadata, and 16 bits if the photo has more than 8 and the format holds them. A picture of
    another size than the photo's gets its alpha resized.

    Raises:
        ValueError: `name` is not a file's name.
        PictureError: the file cannot be written.
    """
    if suffix is None:
        suffix = photo.suffix if photo is not None and photo.suffix in pictures.WRITABLE else ".png"
    if not name or PurePath(name).name != name or any(c in name for c in '<>:"/\\|?*') or not name.isprintable():
        raise ValueError(f"{name!r} is not a file's name; choose a suffix of letters, digits, - and _")
    path = folder / f"{name}{suffix}"
    for number in range(2, 100_000):
        if not path.exists():
            break
        path = folder / f"{name}-{number}{suffix}"
    deep = photo is not None and photo.picture.is_deep and pictures.holds_16_bits(path)
    pixels = (rgb.movedim(0, -1) * (65535 if deep else 255)).round().cpu().numpy()
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    if photo is None:
        picture = pictures.Picture(pixels)
    elif pixels.shape[:2] == photo.picture.pixels.shape[:2]:
        picture = photo.picture.with_rgb(pixels)
    else:
        old = photo.picture
        picture = replace(old, pixels=pixels, alpha=_resized(old.alpha, pixels.shape[:2]))
    pictures.write(picture, path)
    return path


def _resized(alpha: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    if alpha is None:
        return None
    values = resize(_unit(alpha)[None, None], size)[0, 0].clamp(0, 1)
    return (values * np.iinfo(alpha.dtype).max).round().numpy().astype(alpha.dtype)


def inside(root: str, name: str, what: str) -> Path:
    """A file or folder inside one of ComfyUI's folders. Raises ValueError for one outside it."""
    base = os.path.abspath(root)
    path = os.path.abspath(os.path.join(base, name.strip()))
    if os.path.splitdrive(path)[0] != os.path.splitdrive(base)[0] or os.path.commonpath([base, path]) != base:
        raise ValueError(f"{reprlib.repr(name)} is outside ComfyUI's {what}, {base}")
    return Path(path)


def _choices() -> list[str]:
    """The photos of ComfyUI's input folder, and the pack's own, which are copied there if they are not there yet."""
    root = Path(folder_paths.get_input_directory())
    samples = provide_samples(root)
    try:
        own = sorted(p.name for p in root.iterdir() if p.suffix.lower() in pictures.SUFFIXES and p.is_file())
    except OSError:
        own = []
    return [*samples, *own]


def provide_samples(root: Path) -> list[str]:
    """The names, relative to ComfyUI's input folder, of the pack's photos; a copy is made where one is missing."""
    names = []
    for sample in folders.find([SAMPLES]) if SAMPLES.is_dir() else []:
        target = root / SAMPLE_FOLDER / sample.name
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic.replacing(target) as part:
                    part.write_bytes(sample.read_bytes())
            names.append(f"{SAMPLE_FOLDER}/{sample.name}")
        except OSError:  # a folder that cannot be written to: without samples, then
            continue
    return names
