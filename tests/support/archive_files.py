"""Files of archives' kinds, made for tests: profiles, depths, pages and metadata that other programs write."""

import io
import struct

import numpy as np
import tifffile
from PIL import Image, ImageCms

from seada_core.files import profiles


def ramp(height: int = 40, width: int = 64) -> np.ndarray:
    """uint8 grey `(H, W)` of all tones, with some structure."""
    y, x = np.mgrid[:height, :width]
    return np.clip(255 * x / (width - 1) + 12 * np.sin(y / 3), 0, 255).astype(np.uint8)


def colors(height: int = 40, width: int = 64) -> np.ndarray:
    """uint8 RGB `(H, W, 3)` of moderate colours."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    return np.stack([255 * x, 200 * y + 30, 128 + 90 * np.sin(5 * x)], -1).astype(np.uint8)


def gray_profile(gamma: float) -> bytes:
    made = profiles.made(gamma, None)
    assert made is not None
    return made


def rgb_profile(name: str) -> bytes:
    """A profile of a wide RGB space, by its published primaries (D65, or D50 for ProPhoto) and gamma."""
    spaces = {
        "adobe": (2.19921875, (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)),
        "p3": (2.2, (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)),
        "prophoto": (1.8, (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)),
    }
    made = profiles.made(*spaces[name])
    assert made is not None
    return made


def shown(image: Image.Image) -> np.ndarray:
    """What a colour-managed viewer shows of an 8-bit file: L*a*b*, float `(H, W, 3)`."""
    icc = image.info.get("icc_profile")
    image = image.convert("RGB") if image.mode not in ("L", "RGB", "CMYK") else image
    srgb = ImageCms.createProfile("sRGB")
    if icc:
        image = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(icc)), srgb, outputMode="RGB")
    from skimage.color import rgb2lab

    return rgb2lab(np.asarray(image.convert("RGB")))


def text_records(**texts: str) -> bytes:
    """IPTC with a caption, a byline, a keyword and a place."""
    numbers = {"caption": 120, "byline": 80, "keyword": 25, "city": 90, "date": 55}
    records = b"\x1c\x01\x5a\x00\x03\x1b%G"  # UTF-8
    for name, text in texts.items():
        records += struct.pack(">BBBH", 0x1C, 2, numbers[name], len(text.encode())) + text.encode()
    return records


XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def packed_12_bits(values: np.ndarray) -> bytes:
    """A TIFF of packed 12-bit grey; `values` 0..4095, of an even width."""
    a, b = values[:, 0::2].astype(int), values[:, 1::2].astype(int)
    data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1)]
    tags += [(278, height), (279, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + data


def tiff_bytes(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()
