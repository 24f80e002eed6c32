"""Photos with half their chroma, for the tests of the command."""

import pytest
from evaluation import half
from PIL import Image

from seada_core.evaluate import sources


@pytest.fixture(scope="module")
def photos(data_dir):
    """Eight crops of Kodak photos, 72×64 px."""
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png"))[:8]
    return [Image.open(path).convert("RGB").crop((100, 120, 388, 376)).resize((72, 64)) for path in paths]


@pytest.fixture
def folder(photos, tmp_path):
    """The photos in two folders named by classes of ImageNet, and half their chroma under `half/`, flat."""
    for index, photo in enumerate(photos):
        place = tmp_path / "truth" / ("church" if index < 5 else "golf ball") / f"photo{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.save(place)
        result = tmp_path / "half" / f"photo{index}.png"
        result.parent.mkdir(exist_ok=True)
        sources.to_image(half(sources.to_tensor(photo))).save(result)
    return tmp_path
