"""The table of `docs/formats.md`: what is read and written of each format, tried on small files.

`python -m tools.format_table` writes it, `--check` only says whether it is out of date.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from seada_core.files import formats, pictures
from seada_core.files.picture import Picture, PictureError

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
START, END = "<!-- made by python -m tools.format_table -->", "<!-- end -->"
COLUMNS = ("format", "suffixes", "read", "written", "bits", "profile", "metadata kept", "pages")

# Pillow's name: the format's own, and options with which a file of it is made
FORMATS = {
    "JPEG": "JPEG",
    "PNG": "PNG, APNG",
    "TIFF": "TIFF, BigTIFF",
    "WEBP": "WebP",
    "BMP": "BMP",
    "GIF": "GIF",
    "MPO": "MPO (several JPEGs)",
    "JPEG2000": "JPEG 2000",
    "AVIF": "AVIF",
    "HEIF": "HEIC, HEIF",
    "PSD": "Photoshop (its composite)",
    "PPM": "PBM, PGM, PPM",
    "TGA": "TGA",
}
REST, PAGES = "as the result's format", "all on request"
PAGED = ("GIF", "TIFF", "PNG", "WEBP", "MPO")
OTHER_SUFFIXES = {".psd": "PSD", ".jif": "JPEG", ".mpo": "MPO", ".dib": "BMP", ".heic": "HEIF", ".heif": "HEIF"}


def sample(deep: bool) -> np.ndarray:
    values = np.arange(24 * 32 * 3, dtype=np.uint16).reshape(24, 32, 3)
    return values * 27 if deep else (values % 256).astype(np.uint8)


def encoded(kind: str, **options: object) -> bytes | None:
    """A small colour picture in a format; None where Pillow does not write it."""
    file = io.BytesIO()
    try:
        Image.fromarray(sample(False)).save(file, kind, **options)
    except (KeyError, OSError, ValueError):
        return None
    return file.getvalue()


def suffixes(kind: str) -> list[str]:
    """The suffixes of a format that folders are searched for."""
    own = {suffix for suffix, name in Image.registered_extensions().items() if name == kind}
    own |= {suffix for suffix, name in OTHER_SUFFIXES.items() if name == kind}
    return sorted(own & pictures.SUFFIXES)


def keeps_profile(kind: str) -> bool:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encoded(kind, icc_profile=icc)
    return content is not None and pictures.read_bytes(content, kind).icc is not None


def written(suffix: str, folder: Path) -> tuple[str, str]:
    """(bits, metadata) that a written file keeps."""
    exif = Image.Exif()
    exif[0x010F] = "Kodak"
    carried = Picture(
        sample(True), None, exif.tobytes(), xmp=b"<x:xmpmeta/>", iptc=b"\x1c\x02\x78\0\1x", texts=(("Comment", "c"),)
    )
    path = folder / f"a{suffix}"
    pictures.write(carried, path)
    again = pictures.read(path)
    found = {"EXIF": again.exif, "XMP": again.xmp, "IPTC": again.iptc, "texts": again.texts}
    kept = [name for name, value in found.items() if value]
    moved = {"IPTC": "IPTC as XMP", "texts": "texts as EXIF"}
    if suffix != ".bmp":
        kept += [moved[name] for name in moved if name not in kept]
    return ("8, 16" if again.is_deep else "8"), ", ".join(kept) or "none"


def several(kind: str) -> bool:
    """Whether the pages of a file are counted."""
    if kind not in PAGED:
        return False
    content = encoded(kind, save_all=True, append_images=[Image.fromarray(sample(False)[::-1].copy())])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(content or b"")
        return pictures.page_count(path) == 2


def row(kind: str, folder: Path) -> list[str]:
    names = suffixes(kind)
    writable = [suffix for suffix in names if suffix in pictures.WRITABLE]
    if kind == "HEIF":  # the same wherever the table is made
        return [FORMATS[kind], ".heic .heif .hif", "with pillow-heif", "as PNG", "8", "kept or converted", REST, PAGES]
    content = encoded(kind)
    read = "yes" if kind in formats.formats() else "no"
    if content is not None:
        try:
            pictures.read_bytes(content, kind)
            read = "yes"
        except PictureError:
            read = "no"
    bits, kept = written(writable[0], folder) if writable else ("8", REST)
    profile = "kept or converted" if keeps_profile(kind) else "none in the format"
    if kind == "PSD":  # which Pillow does not write
        profile = "kept or converted"
    if kind in ("PPM", "JPEG2000"):
        bits = "8, 16 (grey)"
    pages = PAGES if several(kind) else "one"
    return [FORMATS[kind], " ".join(names), read, "yes" if writable else "as PNG", bits, profile, kept, pages]


def table() -> str:
    """The table as Markdown."""
    formats.formats()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(kind, Path(folder)) for kind in FORMATS]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def foreign() -> str:
    """The formats that are not read, and what to do, as Markdown."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for suffix, kind in formats.FOREIGN.items():
        kinds.setdefault(kind, []).append(suffix)
    rows = [f"| {name} | {' '.join(suffixes)} | {help} |" for (name, help), suffixes in kinds.items()]
    return "\n".join(["| what it is | suffixes | way out |", "| --- | --- | --- |", *rows])


def document(text: str) -> str:
    """The document with its tables regenerated."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{table()}\n\nNot read, but named with a way out:\n\n{foreign()}\n\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether the document is out of date")
    options = parser.parse_args(arguments)
    old = DOCUMENT.read_text(encoding="utf-8")
    new = document(old)
    if options.check:
        if old != new:
            print(f"{DOCUMENT} is out of date: python -m tools.format_table", file=sys.stderr)
        return int(old != new)
    DOCUMENT.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
