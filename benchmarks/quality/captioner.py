"""How often the captioner names a grey photo's label: `python -m benchmarks.quality.captioner --data val-000.tar`."""

from __future__ import annotations

import argparse
import io
import sys
from collections import defaultdict

import torch
from PIL import Image

from benchmarks import Table
from seada_core.evaluate.sources import gray_of, to_tensor
from seada_core.train.sources import samples
from seada_core.weights import part_files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="webdataset shard whose samples have a label and a source")
    parser.add_argument("--model", default="mini")
    options = parser.parse_args(arguments)
    file = part_files.model_folder(options.model) / "captioner.safetensors"
    captioner, _ = part_files.load_part(file, "captioner")
    hits: dict[str, list[bool]] = defaultdict(list)
    labelled = [(picture, record) for _, picture, record in samples(options.data) if record.get("label")]
    for start in range(0, len(labelled), 32):
        batch = labelled[start : start + 32]
        photos = [gray_of(to_tensor(Image.open(io.BytesIO(picture)))) for picture, _ in batch]
        for caption, (_, record) in zip(captioner(torch.stack(photos)), batch, strict=True):
            hits[record["source"]].append(record["label"].lower() in caption.lower())
    table = Table("captioner", "how often the caption contains the label", ["share", "photos"])
    for source, found in sorted(hits.items()):
        table.add(source, sum(found) / len(found), len(found))
    everything = [found for values in hits.values() for found in values]
    table.add("all", sum(everything) / len(everything), len(everything))
    return 0


if __name__ == "__main__":
    sys.exit(main())
