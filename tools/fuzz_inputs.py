"""Hostile inputs for `tools.fuzz`: real files of every supported kind, and mutations of them.

Mutations are aware of the format: PNG chunks get valid checksums; fields of TIFF directories, JPEG segments,
safetensors headers and JSON values are changed. Everything is determined by a `random.Random`.
"""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageCms

Mutator = Callable[[Random, bytes, list[bytes]], bytes]
NUMBERS = [0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


# --- bytes ------------------------------------------------------------------------------------------------------------


def damage(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """One to three random changes: truncation, flipped bits, overwritten numbers, pieces of this or another file."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_BLIND)(rng, data, others)
    return data


def _cut(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    broken = bytearray(data)
    reach = rng.choice((64, 512, len(data)))
    for _ in range(rng.choice((1, 2, 4, 16)) if data else 0):
        broken[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(broken)


def _number(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    form = rng.choice("<>") + rng.choice("BHIQ")
    value = rng.choice(NUMBERS) % 256 ** struct.calcsize(form)
    at = rng.randrange(max(1, min(rng.choice((64, 512, len(data) + 1)), len(data))))
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def _piece(rng: Random, data: bytes) -> tuple[int, int]:
    first = rng.randrange(len(data) + 1)
    return first, min(len(data), first + rng.choice((1, 8, 64, 1024)))


def _splice(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    source = rng.choice([data, rng.choice(others)])
    first, last = _piece(rng, source)
    at, until = _piece(rng, data)
    return data[:at] + source[first:last] * rng.choice((1, 1, 1, 50)) + data[rng.choice((at, until)) :]


def _delete(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    at, until = _piece(rng, data)
    return data[:at] + data[until:]


_BLIND = (_cut, _flip, _flip, _number, _number, _splice, _delete)


# --- pictures ---------------------------------------------------------------------------------------------------------


def pictures() -> list[bytes]:
    """Small files of every format and mode that Pillow writes, some with EXIF and ICC profiles."""
    import tifffile

    noise = np.random.default_rng(0)
    rgb = Image.fromarray(noise.integers(0, 256, (18, 24, 3), dtype=np.uint8))
    gray, rgba = rgb.convert("L"), rgb.copy()
    rgba.putalpha(gray)
    deep = noise.integers(0, 65536, (18, 24, 4), dtype=np.uint16)
    words = Image.fromarray(deep[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Kodak"
    exif.get_ifd(0x8769)[0x9003] = "1938:05:01 10:00:00"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    about = {"exif": exif, "icc_profile": icc}
    frames = {"save_all": True, "append_images": [gray.convert("RGB"), rgb.rotate(90)]}
    cases = [(image, "PNG", {}) for image in (rgb, rgba, gray, words, rgba.convert("LA"), gray.convert("1"))]
    cases += [(rgb.quantize(8), "PNG", {"transparency": 3}), (rgb, "PNG", {**about, "dpi": (300, 300)})]
    cases += [(image, "JPEG", {}) for image in (rgb, gray, rgb.convert("CMYK"))]
    cases += [(rgb, "JPEG", {"progressive": True, **about}), (rgb, "PNG", frames), (rgb, "MPO", frames)]
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        cases += [(rgb, "TIFF", {"compression": compression} if compression else {})]
    cases += [(image, "TIFF", {}) for image in (rgba, words, Image.fromarray(deep[..., 0] / np.float32(65535)))]
    cases += [(gray.convert("1"), "TIFF", {"compression": kind}) for kind in ("group3", "group4")]
    cases += [(rgb.convert("CMYK"), "TIFF", about), (rgb.quantize(9), "TIFF", {})]
    cases += [(gray.convert("I"), "TIFF", {}), (words, "TIFF", {"compression": "tiff_adobe_deflate"})]
    cases += [(rgb, "WEBP", about), (rgba, "WEBP", {"lossless": True}), (rgb, "WEBP", frames), (gray, "PPM", {})]
    cases += [(rgb.quantize(32), "GIF", {}), (rgb, "GIF", frames), (rgb, "BMP", {}), (rgb.quantize(4), "BMP", {})]
    cases += [(rgb, "TGA", {"compression": "tga_rle"}), (rgba, "TGA", {}), (rgb, "JPEG2000", {}), (gray, "DIB", {})]
    files = []
    for image, kind, options in cases:
        file = io.BytesIO()
        try:
            image.save(file, kind, **options)
        except (KeyError, OSError):  # a build of Pillow without this format
            continue
        files.append(file.getvalue())
    for compression, channels in ((None, 3), ("zlib", 4)):
        file = io.BytesIO()
        extra = ["unassalpha"] if channels == 4 else None
        tifffile.imwrite(file, deep[..., :channels], photometric="rgb", compression=compression, extrasamples=extra)
        files.append(file.getvalue())
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([np.asarray(rgb)] * 3), photometric="rgb")  # three pages
    files.append(file.getvalue())
    return [*files, b"P3\n3 2\n255\n" + b"9 8 7 " * 6, *_deep_pngs(deep), *_archive_files(rgb, deep)]


def _archive_files(rgb: Image.Image, deep: np.ndarray) -> list[bytes]:
    """Files with profiles of other spaces, all kinds of metadata, and layouts of scanners and of Photoshop."""
    import tifffile

    from seada_core.files import metadata, profiles

    gray, iptc = rgb.convert("L"), b"\x1c\x02\x78\0\x05hello\x1c\x02\x19\0\x03key"
    wide = profiles.made(1.8, (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001))
    block = metadata.photoshop_block(iptc)
    extra = b"\xff\xed" + struct.pack(">H", 16 + len(block)) + b"Photoshop 3.0\0" + block
    cases: list[tuple[Image.Image, str, dict]] = [
        (rgb, "JPEG", {"extra": extra, "xmp": b"<x/>", "comment": b"hello"}),
        (gray, "PNG", {"icc_profile": profiles.made(1.8, None)}),
        (rgb, "TIFF", {"icc_profile": wide, "compression": "tiff_lzw"}),
    ]
    files = []
    for image, kind, options in cases:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    texts = metadata.Metadata(xmp=b"<x/>", iptc=iptc, texts=(("Title", "hello"),))
    file = io.BytesIO()
    gray.save(file, "PNG", pnginfo=metadata.png_chunks(texts))
    files.append(file.getvalue())
    tags = [(34675, 7, len(wide or b""), wide, True), (33723, 7, len(iptc), iptc, True)]
    tags += [(34377, 7, len(block), block, True)]
    for values, options in (
        (deep[..., :3], {"photometric": "rgb", "extratags": tags}),
        (deep[..., 0], {"photometric": "miniswhite", "byteorder": ">"}),
        (deep[..., 0].astype(np.uint32) * 65537, {"bigtiff": True}),
        (deep[..., 0] / np.float32(40000), {}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, values, **options)
        files.append(file.getvalue())
    planes = np.moveaxis(np.asarray(rgb), -1, 0)
    header = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, *planes.shape[1:], 8, 3)
    resources = block + b"8BIM" + struct.pack(">HHI", 1057, 0, 6) + b"\0\0\0\1\1\0"
    parts = bytes(4) + struct.pack(">I", len(resources)) + resources + bytes(4) + b"\0\0"
    return [*files, header + parts + planes.tobytes()]


def _deep_pngs(deep: np.ndarray) -> list[bytes]:
    files = []
    for channels, kind in ((2, 4), (3, 2), (4, 6)):
        rows = b"".join(b"\1" + row.astype(">u2").tobytes() for row in deep[..., :channels])
        header = struct.pack(">IIBBBBB", deep.shape[1], deep.shape[0], 16, kind, 0, 0, 0)
        files.append(_png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]))
    return files


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def mutate_picture(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    form = rng.random()
    if data.startswith(b"\x89PNG") and form < 0.6:
        return _mutate_png(rng, data, others)
    if data[:4] in (b"II*\0", b"MM\0*") and form < 0.6:
        return _mutate_tiff(rng, data)
    if data.startswith(b"\xff\xd8") and form < 0.5:
        return _mutate_jpeg(rng, data, others)
    return damage(rng, data, others)


def _mutate_png(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    chunks = _png_chunks(data)
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    way = rng.randrange(6)
    if way == 0:
        header = bytearray(chunks[0][1])
        struct.pack_into(">I", header, rng.choice((0, 4)), rng.choice([*NUMBERS, 30, 1000, 20_000]))
        chunks[0] = (b"IHDR", bytes(header))
    elif way == 1:
        header = bytearray(chunks[0][1])
        header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0] = (b"IHDR", bytes(header))
    elif way == 2:
        chunks[at] = (kind, damage(rng, content, others))
    elif way == 3:
        chunks.insert(rng.randrange(len(chunks) + 1), rng.choice([chunks[at], *_bombs(rng)]))
    elif way == 4:
        del chunks[at]
    else:
        rng.shuffle(chunks)
    return _png(chunks)


def _bombs(rng: Random) -> list[tuple[bytes, bytes]]:
    """Chunks that decompress to a thousand times their size."""
    packed = zlib.compress(bytes(rng.choice((10**5, 5 * 10**6))), 9)
    text = b"Comment\0\0"
    return [
        (b"zTXt", text + packed), (b"iTXt", b"Comment\0\1\0\0\0" + packed), (b"iCCP", text + packed),
        (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"), (b"tRNS", bytes(3)), (b"acTL", struct.pack(">II", 2**31, 0)),
    ]  # fmt: skip


def _mutate_tiff(rng: Random, data: bytes) -> bytes:
    end = "<" if data[:2] == b"II" else ">"
    broken = bytearray(data)
    (at,) = struct.unpack_from(end + "I", data, 4)
    if at + 2 > len(data):
        return bytes(broken)
    (count,) = struct.unpack_from(end + "H", data, at)
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = at + 2 + 12 * rng.randrange(max(1, count))
        if entry + 12 > len(data):
            continue
        offset, form = rng.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H"), (8, "I")))
        values = [*NUMBERS, 5, 12, 32946, 34675, 34665, 254, 262, 273, 339, at, len(data), len(data) - 1]
        struct.pack_into(end + form, broken, entry + offset, rng.choice(values) % 256 ** struct.calcsize(form))
    return bytes(broken)


def _mutate_jpeg(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    starts = [match.start() for match in re.finditer(rb"\xff[\xc0-\xfe]", data)]
    at = rng.choice(starts)
    broken = bytearray(data)
    if rng.random() < 0.5 and at + 9 < len(data):
        struct.pack_into(">H", broken, at + rng.choice((2, 5, 7)), rng.choice(NUMBERS) % 65536)
        return bytes(broken)
    until = rng.choice([*starts, len(data)])
    return data[:at] + data[until:] if rng.random() < 0.5 else data[:until] + damage(rng, data[at:], others)


# --- JSON and safetensors ---------------------------------------------------------------------------------------------


def odd_value(rng: Random) -> object:
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, -1e-300, float("nan"), float("inf"), "", "1e9",
            "#123456", "\0", "\ud800", "<script>alert(1)</script>", "../../etc/passwd", "x" * 5000, [], {}, [[]], [{}],
            [0, 0], [1, 2, 3], [None] * 50, {"x": 1}, {"": {"": []}}, [[[[[[[[[]]]]]]]]], ["#000000"] * 40,
        ]
    )  # fmt: skip


def mutate_tree(rng: Random, tree: object) -> object:
    """JSON data with one to three values replaced, dropped, renamed or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return odd_value(rng)
        holder, key = rng.choice(places)
        way = rng.random()
        if way < 0.6:
            holder[key] = odd_value(rng)
        elif way < 0.7:
            del holder[key]
        elif way < 0.8 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "__proto__", "name", "points", "y" * 3000))] = holder.pop(key)
        elif way < 0.9 and isinstance(holder, list):
            holder += [holder[key]] * rng.choice((1, 10, 100))
        elif type(holder[key]) in (int, float) and abs(holder[key]) < 1e9:
            holder[key] = rng.choice([*NUMBERS, -holder[key], holder[key] + 0.5, holder[key] + 1, str(holder[key])])
        else:
            holder[key] = copy.deepcopy(rng.choice(places)[0])
            return tree
    return tree


def _places(tree: object) -> list[tuple[dict | list, object]]:
    found, todo = [], [tree]
    while todo:
        one = todo.pop()
        entries = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in entries:
            found.append((one, key))
            todo.append(value)
    return found


def json_bytes(rng: Random, tree: object) -> bytes:
    return json.dumps(tree).encode("utf-8") if rng.random() < 0.9 else json.dumps(tree, indent=1).encode("utf-16")


def mutate_json(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    way = rng.random()
    if way < 0.3:
        return damage(rng, data, others)
    if way < 0.33:
        return rng.choice((b"[", b'{"hints":', b'{"a":[')) * rng.choice((900, 1100, 100_000))
    if way < 0.36:  # a name twice
        return re.sub(rb'"(\w+)":', lambda m: m[0] + b" 1, " + m[0], data, count=1)
    return json_bytes(rng, mutate_tree(rng, json.loads(data)))


def split_weights(data: bytes) -> tuple[dict, bytes]:
    """Header and tensors of a complete safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_weights(header: bytes, tensors: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", (len(header) if length is None else length) % 2**64) + header + tensors


def mutate_weights(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    way = rng.random()
    if way < 0.3:
        return damage(rng, data, others)
    header, tensors = split_weights(data)
    if way < 0.4:
        lengths = [*NUMBERS, 2**63, 2**64 - 1, 10**8, 10**8 + 1, len(data), len(data) - 8]
        return join_weights(json.dumps(header).encode(), tensors, rng.choice(lengths))
    if way < 0.7:  # one tensor's entry, with almost valid numbers
        name = rng.choice([name for name in header if name != "__metadata__"])
        header[name] = mutate_tree(rng, header[name])
        text = json.dumps(header).encode()
    else:
        text = mutate_json(rng, json.dumps(header).encode(), others)
    return join_weights(text, tensors if rng.random() < 0.9 else tensors[: rng.randrange(len(tensors) + 1)])


def mutate_preset(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """A part file with mutated metadata and the same tensors."""
    header, tensors = split_weights(data)
    about = header["__metadata__"]
    if rng.random() < 0.15:
        header["__metadata__"] = mutate_tree(rng, about)
    elif rng.random() < 0.15:
        about["seada.config"] = damage(rng, about["seada.config"].encode(), others).decode("latin-1")
    else:
        about["seada.config"] = json.dumps(mutate_tree(rng, json.loads(about["seada.config"])))
    return join_weights(json.dumps(header).encode(), tensors)


# --- shards -----------------------------------------------------------------------------------------------------------


def shards(photos: list[bytes]) -> list[bytes]:
    """Small webdataset shards, in all tar formats."""
    files = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for k, photo in enumerate(photos[:4]):
                name = f"{'folder/' * (60 if k == 3 and form else 0)}{k:03}"
                for suffix, content in (("png", photo), ("json", b'{"captions": ["a dog"]}'), ("txt", b"a dog")):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        files.append(file.getvalue())
    return files


def mutate_shard(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """Half of the time a member's header with a valid checksum, else random damage."""
    if rng.random() < 0.5:
        return damage(rng, data, others)
    broken = bytearray(data)
    heads = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    field, width = rng.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (345, 155)))
    texts = [b"../../x.png", b"/etc/x.png", b"7" * 12, b"\x80" + b"\xff" * 11, b"-1", b"", b"\xff\xfe.png", b"0", b"L"]
    broken[at + field : at + field + width] = rng.choice(texts)[:width].ljust(width, b"\0")
    broken[at + 148 : at + 156] = b" " * 8
    broken[at + 148 : at + 156] = b"%06o\0 " % sum(broken[at : at + 512])
    return bytes(broken)
