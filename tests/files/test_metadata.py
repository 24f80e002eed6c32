"""XMP, IPTC, comments and texts from any format to any other."""

import io
import struct

import numpy as np
import pytest
from archive_files import XMP, colors, text_records, tiff_bytes
from PIL import Image, PngImagePlugin

from seada_core.files import metadata, pictures
from seada_core.files.pictures import Picture, read, read_bytes, write

IPTC = text_records(caption="Großmutter & ich", byline="J. Photographer", keyword="family", date="19310502")
PHOTO = Image.fromarray(colors())


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    PHOTO.save(file, "JPEG", **options)
    return file.getvalue()


def exif(**places: object) -> bytes:
    """EXIF with a caption, and with GPS."""
    block = Image.Exif()
    block[0x010F] = "Kodak"
    if "caption" in places:
        block[0x010E] = places["caption"]
    block.get_ifd(0x8769)[0x9003] = "1931:05:02 12:00:00"
    block.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0at the lake"
    block.get_ifd(0x8825)[1], block.get_ifd(0x8825)[2] = "N", (51.0, 30.0, 0.0)
    return block.tobytes()


def full(kind: str) -> bytes:
    """A file of a kind with all that it holds."""
    block = metadata.photoshop_block(IPTC)
    if kind == "JPEG":
        extra = b"\xff\xed" + struct.pack(">H", 16 + len(block)) + b"Photoshop 3.0\0" + block
        return jpeg(xmp=XMP, comment=b"a comment", extra=extra, exif=exif(caption="x"), dpi=(600, 600))
    file = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Comment", "a comment")
        info.add_text("Raw profile type iptc", f"\niptc\n{len(block):8}\n{block.hex()}\n", zip=True)
        PHOTO.save(file, "PNG", pnginfo=info, exif=exif(caption="x"), dpi=(600, 600))
        return file.getvalue()
    if kind == "TIFF":
        tags = [(700, 1, len(XMP), XMP, True), (33723, 7, len(IPTC), IPTC, True)]
        return tiff_bytes(colors(), photometric="rgb", description="a caption", extratags=tags, resolution=(600, 600))
    PHOTO.save(file, "WEBP", xmp=XMP, exif=exif(caption="a comment"))
    return file.getvalue()


@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_everything_is_kept_from_any_format_to_any_other(tmp_path, source, suffix):
    picture = read_bytes(full(source), "full")
    assert picture.xmp == XMP and (picture.iptc == IPTC or source == "WEBP")
    write(picture.with_rgb(colors()), tmp_path / f"out{suffix}")
    content = (tmp_path / f"out{suffix}").read_bytes()
    assert b'xmp:Rating="5"' in content  # the packet is there to be found by any program
    again = read(tmp_path / f"out{suffix}")
    assert pictures.losses(picture, f"x{suffix}") == []
    if source != "WEBP" and suffix != ".webp":
        assert again.iptc == IPTC
    elif source != "WEBP":
        assert "Großmutter &amp; ich" in again.xmp.decode() and "1931-05-02" in again.xmp.decode()
    if source in ("JPEG", "PNG"):
        comment = dict(again.texts).get("Comment", "")
        assert "a comment" in (comment + again.exif.decode("latin-1") + again.exif.decode("utf-16-le", "ignore"))
        assert again.dpi == pytest.approx((600, 600), abs=0.5)
    with Image.open(tmp_path / f"out{suffix}") as image:
        if source != "TIFF":
            assert image.getexif().get_ifd(0x8825)[1] == "N"
            assert image.getexif().get_ifd(0x8769)[0x9003] == "1931:05:02 12:00:00"
        elif suffix != ".png":
            assert image.getexif()[0x010E] == "a caption"


def test_texts_of_a_png_stay_apart_in_a_png_and_together_elsewhere(tmp_path):
    picture = Picture(colors(), texts=(("Title", "Grandmother"), ("Author", "Jürgen")))
    write(picture, tmp_path / "a.png")
    assert read(tmp_path / "a.png").texts == picture.texts
    write(picture, tmp_path / "a.jpg")
    assert read(tmp_path / "a.jpg").texts == (("Comment", "Title: Grandmother\nAuthor: Jürgen"),)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_tiffs_of_8_and_16_bits_with_exif_and_gps_are_read_by_others(tmp_path, deep, alpha):
    import tifffile

    values = colors().astype(np.uint16) * 257 if deep else colors()
    opacity = values[..., 0] if alpha else None
    write(Picture(values, opacity, exif(caption="x"), xmp=XMP, iptc=IPTC), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.asarray()[..., :3], values)
        tags = file.pages[0].tags
        assert tags[700].value == XMP and tags[33723].value == IPTC
        assert tags["ExifTag"].value["DateTimeOriginal"] == "1931:05:02 12:00:00"
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
    write(Picture(values[..., 0]) if not deep else Picture(values), tmp_path / "gray.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "gray.tif"), values[..., 0] if not deep else values)


@pytest.mark.parametrize("kind", ["bigtiff", "gps", "jpeg asked for as TIFF"])
def test_what_pillow_cannot_write_as_tiff(tmp_path, kind):
    if kind == "bigtiff":
        content = tiff_bytes(colors(), photometric="rgb", bigtiff=True, description="a caption")
    else:
        content = jpeg(exif=exif(caption="a caption"))
    picture = read_bytes(content, kind)
    write(picture.with_rgb(colors()), tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as image:
        assert image.getexif()[0x010E] == "a caption"
        np.testing.assert_array_equal(np.asarray(image), colors())


def test_what_does_not_fit_is_named():
    big = b"<x>" + b" " * 70_000
    picture = Picture(colors(), None, exif(), xmp=big, iptc=b"\x1c" * 66_000, texts=(("Comment", "c" * 66_000),))
    [lost] = pictures.losses(picture, "a.jpg")
    named = "XMP of over 65 kB, IPTC of over 65 kB, texts of over 65 kB"
    assert lost == f".jpg cannot hold its {named}; write .png or .tif to keep all"
    assert pictures.losses(picture, "a.png") == []
    assert "EXIF, XMP, IPTC, texts" in pictures.losses(picture, "a.bmp")[0]
    block = Image.Exif()
    block.load(exif(caption="x"))
    block.get_ifd(0x8769)[0x927C] = b"m" * 70_000
    noted = Picture(colors(), None, block.tobytes())
    assert "EXIF's maker note" in pictures.losses(noted, "a.jpg")[0]
    kept, _ = metadata.fitted(noted.metadata, "JPEG")
    block = Image.Exif()
    block.load(kept.exif)
    assert block[0x010E] == "x" and 0x927C not in block.get_ifd(0x8769)


def test_xmp_keeps_what_it_says_already():
    there = metadata.xmp_of_iptc(IPTC, None)
    assert metadata.xmp_of_iptc(IPTC, there).count(b"dc:creator") == there.count(b"dc:creator")
    from xml.etree import ElementTree

    found = ElementTree.fromstring(there.decode().split("?>", 1)[1].rsplit("<?", 1)[0])
    assert next(e.text for e in found.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")) == "Großmutter & ich"


@pytest.mark.parametrize("block", [b"8BIM", b"8BIM\4\4\0", b"\x1c", b"\x1c\2", b"8BIM\4\4\0\0\xff\xff\xff\xff\x1c"])
def test_damaged_metadata_does_not_stop_a_photo(tmp_path, block):
    extra = b"\xff\xed" + struct.pack(">H", 16 + len(block)) + b"Photoshop 3.0\0" + block
    for content in (jpeg(extra=extra), tiff_bytes(colors(), extratags=[(34377, 7, len(block), block, True)]),
                    tiff_bytes(colors(), extratags=[(33723, 7, len(block), block, True)])):  # fmt: skip
        picture = read_bytes(content, "x")
        for suffix in (".jpg", ".webp", ".png", ".tif"):
            write(picture, tmp_path / f"x{suffix}")
    assert metadata.xmp_of_iptc(b"\x1c\2\x78\xff\xff" + b"x", None).endswith(b'<?xpacket end="w"?>')


def test_a_lossless_webp_stays_lossless_and_a_quality_can_be_asked_for(tmp_path):
    PHOTO.save(tmp_path / "a.webp", lossless=True)
    PHOTO.save(tmp_path / "lossy.webp", quality=90)
    picture = read(tmp_path / "a.webp")
    assert picture.lossless and not read(tmp_path / "lossy.webp").lossless
    write(picture, tmp_path / "b.webp")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.webp")), colors())
    write(picture, tmp_path / "c.webp", quality=30)
    assert not read(tmp_path / "c.webp").lossless
    sizes = []
    for quality in (30, None, 100):
        write(picture, tmp_path / "q.jpg", quality=quality)
        sizes.append((tmp_path / "q.jpg").stat().st_size)
    assert sizes[0] < sizes[1] and sizes[1] < sizes[2]
