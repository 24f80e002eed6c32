"""Small tar files, such as webdataset shards."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of these members (name to content), in their order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
