"""Shared by the tests of `python -m seada_core.evaluate`; see also `photos` and `folder` in its conftest.py."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from seada_core.evaluate import sources
from seada_core.evaluate.__main__ import main
from seada_core.evaluate.options import EvaluateOptions, Networks
from seada_core.options import ColorizeOptions

LITE = "efficientnet-lite0"


def half(truth):
    """Half of a picture's chroma."""
    gray = sources.gray_of(truth)
    return sources.to_8bit(gray + 0.5 * (truth - gray))


def command(folder, *more, out="report"):
    """Evaluates `half/`, without networks unless `more` names them."""
    more, networks = [str(argument) for argument in more], []
    if "--features" in more:
        at = more.index("--features")
        networks, more = more[at + 1 : at + 2], more[:at] + more[at + 2 :]
    arguments = ["--images", str(folder / "truth"), "--no-model", "--compare", f"half={folder / 'half'}", *more]
    return main([*arguments, "--out", str(folder / out), "--device", "cpu", "--features", *networks])


def report_of(folder, out="report"):
    return json.loads((folder / out / "report.json").read_text("utf-8"))


class Colours:
    """In place of a Colorizer: half the chroma of the truths it was told, all of it where hints are; counts calls."""

    folder = Path(__file__).parent

    def __init__(self, truths, fail_at=None):
        self.by_luminance = {sources.gray_of(t).numpy().tobytes(): t for t in truths}
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, gray, options, hints=None):
        assert (gray == gray[:, :1]).all()
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        truth = torch.stack([self.by_luminance[g.numpy().tobytes()] for g in gray])
        return half(truth) if hints is None else torch.where(hints[:, 2:] > 0, truth, half(truth))


def options_of(folder, out="ours", **changes):
    options = EvaluateOptions(
        str(folder / "truth"),
        folder / out,
        networks=Networks(()),
        model="mini",
        colorize=ColorizeOptions(seed=3),
        batch=2,
    )
    return replace(options, **changes)
