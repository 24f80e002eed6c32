"""What photos carry besides pixels: XMP, IPTC, comments and texts, read from any format, and fitted to another."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image, PngImagePlugin

_IPTC, _PHOTOSHOP = 33723, 34377  # a TIFF's tags
_IPTC_RESOURCE, _EXIF_RESOURCE, _XMP_RESOURCE = 0x0404, 1058, 1060  # of Photoshop
_ORIENTATION = 0x0112
# TIFF tags that describe how the *old* file laid out its pixels; Pillow's EXIF of a TIFF holds them all.
_LAYOUT_TAGS = frozenset(
    [*range(254, 260), 262, 266, 273, *range(277, 282), 284, *range(288, 294), 301, *range(317, 326), 330]
    + [*range(332, 344), 347, *range(512, 522), 529, 530, 531, 532, 700, 33723, 34377, 34675]
)
_DESCRIPTION, _EXIF, _USER_COMMENT, _MAKER_NOTE, _XP_COMMENT = 0x010E, 0x8769, 0x9286, 0x927C, 0x9C9C
_RESOLUTION, _RESOLUTION_UNIT = 282, 296
_SEGMENT = 65_000  # bytes that one JPEG segment holds, less its header
_XMP_KEY, _RAW_KEY = "XML:com.adobe.xmp", "Raw profile type "
# Raised for damaged metadata, which is not a reason to refuse the photo.
ERRORS = (ValueError, TypeError, KeyError, IndexError, SyntaxError, EOFError, OSError, struct.error, AttributeError)


@dataclass(frozen=True)
class Metadata:
    """`exif` without orientation, `xmp` a packet, `iptc` records (IIM), `texts` pairs of a name and a text."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()


def read(image: Any) -> Metadata:
    """XMP, IPTC and texts of an opened picture; what is damaged is skipped."""
    return Metadata(None, _read(_xmp, image), _read(_iptc, image), _read(_texts, image) or ())


def exif_of(image: Any) -> tuple[int, bytes | None]:
    """The orientation, and the EXIF block without it and without tags that only apply to the old file."""
    try:
        exif = image.getexif()
        if image.format == "PSD" and (block := _resource(image, _EXIF_RESOURCE)):
            exif.load(block)
        if getattr(exif, "bigtiff", False):
            exif.bigtiff = False  # its block is written as EXIF, which has no 64-bit form
        stale = {tag: exif.pop(tag) for tag in [_ORIENTATION, *_LAYOUT_TAGS] if tag in exif}
        try:
            block = exif.tobytes() if len(exif) else None
        finally:
            exif.update(stale)  # the object belongs to the caller's image
        return stale.get(_ORIENTATION, 1), block
    except ERRORS:
        return 1, None


def _read(part: Any, image: Any) -> Any:
    try:
        return part(image) or None
    except ERRORS:
        return None


def _xmp(image: Any) -> bytes | None:
    xmp = image.info.get("xmp") or _resource(image, _XMP_RESOURCE)
    return xmp.encode() if isinstance(xmp, str) else xmp


def _resource(image: Any, number: int) -> bytes | None:
    """A resource of Photoshop: of a PSD, of a JPEG's APP13, or of a TIFF's tag."""
    if image.format == "PSD":
        return next((data for found, _, data in image.resources if found == number), None)
    if number in image.info.get("photoshop", {}):
        return image.info["photoshop"][number]
    block = getattr(image, "tag_v2", {}).get(_PHOTOSHOP)
    return _resources(block).get(number) if isinstance(block, bytes) else None


def _resources(block: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while block[at : at + 4] == b"8BIM":
        number, name = struct.unpack_from(">HB", block, at + 4)
        at += 6 + (1 + name + 1) // 2 * 2
        (length,) = struct.unpack_from(">I", block, at)
        found[number] = block[at + 4 : at + 4 + length]
        at += 4 + length + length % 2
    return found


def _iptc(image: Any) -> bytes | None:
    tag = getattr(image, "tag_v2", {}).get(_IPTC)
    if isinstance(tag, tuple):  # declared as 32-bit numbers
        tag = b"".join(struct.pack(f"{image.tag_v2._endian}L", number) for number in tag)
    iptc = tag or _resource(image, _IPTC_RESOURCE)
    for key in ("iptc", "8bim") if image.format == "PNG" and not iptc else ():
        words = str(image.text.get(f"{_RAW_KEY}{key}", "")).split()
        block = bytes.fromhex("".join(words[2:]))
        iptc = iptc or (_resources(block).get(_IPTC_RESOURCE) if block.startswith(b"8BIM") else block)
    return iptc if iptc and iptc.startswith(b"\x1c") else None


def _texts(image: Any) -> tuple[tuple[str, str], ...]:
    found = dict(image.text) if image.format == "PNG" else {}
    texts = [(k, str(v)) for k, v in found.items() if k != _XMP_KEY and not k.startswith(_RAW_KEY)]
    comment: Any = None if image.format == "PNG" else image.info.get("comment")
    if isinstance(comment, bytes):
        try:
            comment = comment.decode()
        except UnicodeDecodeError:
            comment = comment.decode("latin-1")
    if isinstance(comment, str) and comment.strip("\0 "):
        texts.append(("Comment", comment.rstrip("\0")))
    return tuple(texts)


# --- to formats -------------------------------------------------------------------------------------------------------


def fitted(metadata: Metadata, kind: str) -> tuple[Metadata, list[str]]:
    """What a format ("JPEG", "PNG", "TIFF", "WEBP", "BMP") can hold of it, and what it cannot, in words.

    What a format has no place for moves to one that it has: texts to EXIF's description and comment, IPTC to XMP.
    """
    lost: list[str] = []
    if kind == "BMP":
        found = {"EXIF": metadata.exif, "XMP": metadata.xmp, "IPTC": metadata.iptc, "texts": metadata.texts}
        return Metadata(), [name for name, value in found.items() if value]
    if kind == "WEBP" and metadata.iptc:
        metadata = replace(metadata, xmp=xmp_of_iptc(metadata.iptc, metadata.xmp), iptc=None)
    if kind in ("WEBP", "TIFF") and metadata.texts:
        metadata = _texts_in_exif(metadata, lost)
    if kind == "JPEG":
        metadata = _fitted_to_segments(metadata, lost)
    return metadata, lost


def _fitted_to_segments(metadata: Metadata, lost: list[str]) -> Metadata:
    if metadata.exif and len(metadata.exif) > _SEGMENT:
        smaller = without_maker_note(metadata.exif)
        lost.append("EXIF's maker note" if smaller else "EXIF")
        metadata = replace(metadata, exif=smaller)
    if len(metadata.xmp or b"") > _SEGMENT:
        lost.append(f"XMP of over {_SEGMENT // 1000} kB")
        metadata = replace(metadata, xmp=None)
    if len(metadata.iptc or b"") > _SEGMENT:
        lost.append(f"IPTC of over {_SEGMENT // 1000} kB")
        metadata = replace(metadata, iptc=None)
    if len(comment(metadata.texts)) > _SEGMENT:
        lost.append(f"texts of over {_SEGMENT // 1000} kB")
        metadata = replace(metadata, texts=())
    return metadata


def without_maker_note(exif: bytes) -> bytes | None:
    """EXIF without the camera's own notes, which may be long; None if it does not fit a JPEG without them either."""
    with contextlib.suppress(*ERRORS):
        block = _loaded(exif)
        block.get_ifd(_EXIF).pop(_MAKER_NOTE, None)
        smaller = block.tobytes()
        return smaller if len(smaller) <= _SEGMENT else None
    return None


def _texts_in_exif(metadata: Metadata, lost: list[str]) -> Metadata:
    text = comment(metadata.texts).decode()
    with contextlib.suppress(*ERRORS):
        block = _loaded(metadata.exif)
        if _DESCRIPTION not in block and text.isascii():
            block[_DESCRIPTION] = text
        elif _USER_COMMENT not in block.get_ifd(_EXIF) and text.isascii():
            block.get_ifd(_EXIF)[_USER_COMMENT] = b"ASCII\0\0\0" + text.encode()
        elif _XP_COMMENT not in block:
            block[_XP_COMMENT] = text.encode("utf-16-le") + b"\0\0"
        else:
            raise ValueError("all places are taken")
        return replace(metadata, exif=block.tobytes(), texts=())
    lost.append("texts")
    return replace(metadata, texts=())


def _loaded(exif: bytes | None) -> Image.Exif:
    block = Image.Exif()
    if exif:
        block.load(exif)
    return block


def with_resolution(metadata: Metadata, dpi: tuple[float, float] | None) -> Metadata:
    """With the resolution in EXIF, for WebP, which has no other place for it."""
    with contextlib.suppress(*ERRORS):
        block = _loaded(metadata.exif)
        if dpi and _RESOLUTION not in block:
            block[_RESOLUTION], block[_RESOLUTION + 1], block[_RESOLUTION_UNIT] = *dpi, 2
            return replace(metadata, exif=block.tobytes())
    return metadata


def resolution(image: Any) -> tuple[float, float] | None:
    """A picture's resolution in pixels per inch, (x, y)."""
    with contextlib.suppress(*ERRORS, ZeroDivisionError):
        given = image.info.get("dpi")
        if given is None and image.format == "WEBP":
            exif = image.getexif()
            scale = {2: 1.0, 3: 2.54}[exif[_RESOLUTION_UNIT]]
            given = [scale * float(exif[tag]) for tag in (_RESOLUTION, _RESOLUTION + 1)]
        x, y = (float(v) for v in given)
        return (x, y) if 0 < x < 1e5 and 0 < y < 1e5 else None
    return None


def comment(texts: tuple[tuple[str, str], ...]) -> bytes:
    """Texts as one, UTF-8: a comment as it is, others with their names, one a line."""
    return "\n".join(text if name == "Comment" else f"{name}: {text}" for name, text in texts).encode()


def jpeg_options(metadata: Metadata) -> dict[str, Any]:
    """Options of Pillow's JPEG writer for all of it but EXIF."""
    options: dict[str, Any] = {}
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    if metadata.texts:
        options["comment"] = comment(metadata.texts)
    if metadata.iptc:
        block = b"Photoshop 3.0\0" + photoshop_block(metadata.iptc)
        options["extra"] = b"\xff\xed" + struct.pack(">H", 2 + len(block)) + block
    return options


def photoshop_block(iptc: bytes) -> bytes:
    """IPTC as a resource of Photoshop, as JPEG and PNG hold it."""
    return b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def png_chunks(metadata: Metadata) -> PngImagePlugin.PngInfo:
    """XMP, IPTC (as ImageMagick and exiftool store it) and texts as a PNG's chunks."""
    info = PngImagePlugin.PngInfo()
    for name, text in metadata.texts:
        with contextlib.suppress(UnicodeEncodeError):
            info.add_text(name.encode("latin-1")[:79].decode("latin-1"), text)
    if metadata.xmp:
        info.add_itxt(_XMP_KEY, metadata.xmp.decode("utf-8", "replace"))
    if metadata.iptc:
        block = photoshop_block(metadata.iptc)
        digits = block.hex()
        lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
        info.add_text(f"{_RAW_KEY}iptc", f"\niptc\n{len(block):8}\n{lines}\n", zip=True)
    return info


# --- IPTC as XMP ------------------------------------------------------------------------------------------------------

_SPACES = {"dc": "http://purl.org/dc/elements/1.1/", "photoshop": "http://ns.adobe.com/photoshop/1.0/"}
# datasets of IPTC's record 2, and where XMP has them ("IPTC Core", 2008): property and container
_AS_XMP = {
    5: ("dc:title", "Alt"), 120: ("dc:description", "Alt"), 116: ("dc:rights", "Alt"), 80: ("dc:creator", "Seq"),
    25: ("dc:subject", "Bag"), 105: ("photoshop:Headline", ""), 110: ("photoshop:Credit", ""),
    115: ("photoshop:Source", ""), 90: ("photoshop:City", ""), 95: ("photoshop:State", ""),
    101: ("photoshop:Country", ""), 103: ("photoshop:TransmissionReference", ""), 40: ("photoshop:Instructions", ""),
    55: ("photoshop:DateCreated", ""), 122: ("photoshop:CaptionWriter", ""), 85: ("photoshop:AuthorsPosition", ""),
}  # fmt: skip


def records(iptc: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(record, dataset, value) of IPTC data."""
    at = 0
    while at + 5 <= len(iptc) and iptc[at] == 0x1C:
        record, dataset, length = struct.unpack_from(">BBH", iptc, at + 1)
        if length & 0x8000:  # the length of a longer length: not for texts
            return
        yield record, dataset, iptc[at + 5 : at + 5 + length]
        at += 5 + length


def xmp_of_iptc(iptc: bytes, xmp: bytes | None) -> bytes:
    """An XMP packet with IPTC's texts, besides what it has; a property that it has already stays as it is."""
    found: dict[int, list[str]] = {}
    coding = "latin-1"
    for record, dataset, value in records(iptc):
        if (record, dataset) == (1, 90) and value == b"\x1b%G":
            coding = "utf-8"
        elif record == 2 and dataset in _AS_XMP:
            found.setdefault(dataset, []).append(value.decode(coding, "replace"))
    there, lines = (xmp or b"").decode("utf-8", "replace"), []
    for dataset, values in found.items():
        name, container = _AS_XMP[dataset]
        if re.search(rf"\b{name}\b", there):
            continue
        texts = [escape("".join(c for c in value if c.isprintable() or c in "\n\t")) for value in values]
        if not container:
            lines.append(f"<{name}>{_date(texts[0]) if dataset == 55 else texts[0]}</{name}>")
            continue
        language = ' xml:lang="x-default"' if container == "Alt" else ""
        items = "".join(f"<rdf:li{language}>{text}</rdf:li>" for text in texts)
        lines.append(f"<{name}><rdf:{container}>{items}</rdf:{container}></{name}>")
    spaces = " ".join(f'xmlns:{short}="{address}"' for short, address in _SPACES.items())
    block = f'<rdf:Description rdf:about="" {spaces}>{"".join(lines)}</rdf:Description>' if lines else ""
    if "</rdf:RDF>" in there:
        return there.replace("</rdf:RDF>", f"{block}</rdf:RDF>", 1).encode()
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{block}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _date(text: str) -> str:
    """IPTC's CCYYMMDD as XMP's CCYY-MM-DD."""
    return re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", text)
