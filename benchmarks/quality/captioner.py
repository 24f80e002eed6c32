"""How often the captioner names a grey photo's label: `python -m benchmarks.quality.captioner --data val-001.tar`.

By source: the share of captions that contain the label, that name another of ImageNet's classes instead, and, as far as
the photos have ImageNet's classes, the share that the captioner's classifier gets right by itself.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import defaultdict

import torch
from PIL import Image

from benchmarks import Table
from seada_core.color.spaces import luminance
from seada_core.evaluate.sources import gray_of, to_tensor
from seada_core.models.captioners.coca import classifier_of
from seada_core.models.classifier import class_name, recognize
from seada_core.train.sources import samples
from seada_core.weights import part_files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="webdataset shard whose samples have a label and a source")
    parser.add_argument("--model", default="mini")
    options = parser.parse_args(arguments)
    file = part_files.model_folder(options.model) / "captioner.safetensors"
    captioner, _ = part_files.load_part(file, "captioner")
    classifier = classifier_of(captioner)
    names = [class_name(k).lower() for k in range(1000)]
    anything = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})\b")
    rows: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for _, encoded, record in samples(options.data):
        if not record.get("label"):
            continue
        photo = gray_of(to_tensor(Image.open(io.BytesIO(encoded))))[None]
        caption, label = captioner(photo)[0].lower(), record["label"].lower().split(" (")[0]
        named = label in caption
        other = not named and anything.search(caption) is not None
        right = False
        if classifier is not None and "class" in record:
            right = int(recognize(classifier, luminance(photo)).argmax()) == record["class"]
        rows[record["source"] if "class" not in record else f"{record['source']}, a thousand classes"].append(
            (named, other, right)
        )
    table = Table(
        "captioner", "captions of grey photos", ["label named", "another class named", "classifier right", "photos"]
    )
    everything = [row for found in rows.values() for row in found]
    for source, found in [*sorted(rows.items()), ("all", everything)]:
        shares = torch.tensor(found).float().mean(0).tolist()
        table.add(source, *shares, len(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
