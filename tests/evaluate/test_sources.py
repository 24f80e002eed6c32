"""Sources, labels, protocols and hints of `evaluate`."""

import json
import random
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation import LITE, Colours, command, half, options_of, report_of
from PIL import Image

from seada_core.evaluate import features, hint_points, labels, metrics, sources
from seada_core.evaluate.protocols import PROTOCOLS
from seada_core.evaluate.run import evaluate as run


def test_shards_give_pictures_labels_and_keys(data_dir):
    shard = data_dir / "val-000.tar"
    entries = sources.find(shard)
    assert len(entries) == 821
    with tarfile.open(shard) as tar:
        about = {m.name[:-5]: json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")}
        for entry in entries[::100]:
            assert entry.group == about[entry.key]["label"]
            expected = Image.open(tar.extractfile(f"{entry.key}.jpg")).convert("RGB")
            assert np.array_equal(np.array(entry.load()), np.array(expected))
    classes = labels.class_indices([entry.group for entry in entries])
    pooled = [
        (features.class_logits(features.features(sources.to_tensor(e.load())[None])).argmax().item(), c)
        for e, c in list(zip(entries, classes))[:60]
        if c is not None
    ]
    assert len(pooled) > 20
    assert np.mean([found == index for found, index in pooled]) > 0.5  # by chance one in a thousand


def test_labels():
    assert labels.class_index("English springer") == 217 and labels.class_index("chain saw") == 491
    assert labels.class_index("French_horn") == 566 and labels.class_index("7") == 7
    assert labels.class_index("snoopy") is None and labels.class_index(None) is None
    names = [f"n{k:08}" for k in range(0, 3000, 3)]
    assert labels.class_indices([names[7], names[999], *names])[:2] == [7, 999]
    assert labels.class_indices(names[:10]) == [None] * 10


def test_a_list_and_labels_from_files(folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("photo6.png\nphoto2\n")
    (tmp_path / "labels.txt").write_text("photo6.png golf ball\nphoto2,497\n")
    assert (
        command(folder, "--list", tmp_path / "list.txt", "--labels", tmp_path / "labels.txt", "--features", LITE) == 0
    )
    assert report_of(folder)["methods"]["truth"]["labelled"] == 2
    assert set(report_of(folder)["groups"]) == {"golf ball", "497"}
    (tmp_path / "list.txt").write_text("photo6.png\nnowhere.png\n")
    assert command(folder, "--list", tmp_path / "list.txt", out="b") == 1
    assert "names 1 pictures that are not there, nowhere.png" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("photo6.png a cat\n")
    assert command(folder, "--labels", tmp_path / "labels.txt", out="c") == 1
    assert "labels.txt, line 1" in capsys.readouterr().err


def test_protocols_choose_and_fit(tmp_path):
    for name in ("b.png", "a.jpg", "sub/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    first = replace(PROTOCOLS["imagenet-val5k"], limit=2)
    assert [e.key for e in sources.choose(sources.find(tmp_path), first, None, None)] == ["sub/0", "a"]
    with pytest.raises(sources.SourceError, match="is 5000 pictures, there are 3; add --limit 3"):
        sources.choose(sources.find(tmp_path), PROTOCOLS["imagenet-val5k"], None, None)
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 600).astype(np.uint8), (300, 1))).convert("RGB")
    cropped = np.array(PROTOCOLS["imagenet-val5k"].fit(ramp))
    assert cropped.shape == (256, 256, 3)
    assert cropped[128, [0, 255], 0].tolist() == pytest.approx([64, 191], abs=1)  # the middle half of the width
    squashed = np.array(PROTOCOLS["coco-stuff"].fit(ramp))
    assert squashed.shape == (256, 256, 3) and squashed[0, [0, 255], 0].tolist() == pytest.approx([0, 255], abs=1)
    assert PROTOCOLS["icolorit"].fit(ramp).size == (224, 224) and PROTOCOLS["own"].fit(ramp).size == (600, 300)


def test_results_at_the_photos_own_size_are_fitted_as_it_is(folder):
    """A method's results at the photos' size give the same figures as those saved at the protocol's."""
    assert command(folder, "--protocol", "coco-stuff", out="own") == 0
    for path in (folder / "half").iterdir():
        PROTOCOLS["coco-stuff"].fit(Image.open(path)).save(path)
    assert command(folder, "--protocol", "coco-stuff", out="fitted") == 0
    assert report_of(folder, "own")["methods"] == report_of(folder, "fitted")["methods"]


def test_hints_are_icolorits():
    """Its own loop: a text file a picture and count, every coordinate drawn from one stream."""
    files, size = 5, 224
    random.seed(1234)
    expected = {}
    for count in (0, 1, 2, 5, 10, 20, 50, 100, 200):
        for file in range(files):
            expected[count, file] = [
                (random.randint(0, size // 2 - 1) * 2, random.randint(0, size // 2 - 1) * 2) for _ in range(count)
            ]
    found = hint_points.draw(files, (1, 10, 50), size)
    assert set(found) == {1, 10, 50}
    for count, places in found.items():
        for file in range(files):
            assert [tuple(2 * v for v in place) for place in places[file].tolist()] == expected[count, file]
    with pytest.raises(ValueError, match="not 3"):
        hint_points.draw(files, (3,), size)


def test_a_hint_is_the_mean_of_its_patch():
    rgb = torch.rand(3, 9, 8)
    hints = hint_points.reveal(rgb, torch.tensor([[1, 2], [1, 2], [3, 0]]))
    assert hints.shape == (3, 9, 8) and hints[2].sum() == 8
    r, g, b = rgb[:, 2:4, 4:6].mean((1, 2)).tolist()
    y = 0.299 * r + 0.587 * g + 0.114 * b
    assert hints[:, 3, 5].tolist() == pytest.approx([(b - y) / 1.772, (r - y) / 1.402, 1], abs=1e-6)


def test_psnr_at_k_rises_with_the_hints(folder, photos):
    protocol = replace(PROTOCOLS["icolorit"], size=64)
    truths = [sources.to_tensor(protocol.fit(photo)) for photo in photos]
    report = run(options_of(folder, protocol=protocol, hint_counts=(0, 10, 100)), Colours(truths))
    at = report["methods"]["ours"]["psnr_at"]
    assert at["0"] == pytest.approx(report["methods"]["ours"]["psnr"]) and at["0"] < at["10"] < at["100"]
    assert report["methods"]["ours"]["psnr_at_10_over_psnr_at_0"] == pytest.approx(at["10"] - at["0"])
    places = hint_points.draw(8, (100,), 64)[100]
    expected = []
    for truth, drawn in zip(truths, places):
        shown = hint_points.reveal(truth, drawn)[2:] > 0
        expected.append(metrics.psnr(torch.where(shown, truth, half(truth)), truth).item())
    assert at["100"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_photos_without_a_truth_have_colourfulness_alone(folder, photos):
    options = options_of(folder, truth=False, compare={"half": folder / "half"})
    report = run(options, Colours([sources.to_tensor(photo) for photo in photos]))
    fullness = metrics.colorfulness(torch.stack([half(sources.to_tensor(p)) for p in photos])).mean().item()
    assert set(report["methods"]) == {"ours", "half"}
    assert report["methods"]["ours"] == {
        "colorfulness": pytest.approx(fullness, rel=1e-5),
        "colorfulness_signed": report["methods"]["ours"]["colorfulness_signed"],
    }
