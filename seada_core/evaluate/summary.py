"""From records to figures: means, shares, recoveries, Fréchet distances, intervals, groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import metrics
from .features import FEATURES
from .journal import Journal
from .measure import CHROMA_BINS, CHROMA_TOP, GRAY_TRUTH

MEANS = ("psnr", "ssim", "delta_e2000", "chroma_error", "edge_chroma_error", "colorfulness", "colorfulness_signed")
DRAWS = 1000  # of the bootstrap
FEW = 2048  # pictures under which a Fréchet distance's upward bias is worth a note


class Columns:
    """The records' numbers as columns: method and measure to one float per picture, NaN where there is none."""

    def __init__(self, journal: Journal):
        self.keys: list[str] = []
        self.groups: list[str | None] = []
        self.classes: list[int | None] = []
        self.errors: list[dict] = []
        self.excluded: list[dict] = []
        self.psnr_at: dict[int, list[float]] = {}
        self.histograms: dict[str, np.ndarray] = {}
        columns: dict[tuple[str, str], list[float]] = {}
        for record in journal.records():
            if "methods" not in record:
                (self.errors if "error" in record else self.excluded).append(record)
                continue
            self.keys.append(record["key"])
            self.groups.append(record["group"])
            self.classes.append(record["class"])
            for count, value in record.get("psnr_at", {}).items():
                self.psnr_at.setdefault(int(count), []).append(math.nan if value is None else value)
            for method, values in record["methods"].items():
                histogram = np.array(values["chroma_histogram"], np.float64)
                total = self.histograms.setdefault(method, np.zeros(CHROMA_BINS))
                total += histogram / histogram.sum()  # every picture has the same weight
                for name, value in values.items():
                    if name != "chroma_histogram":
                        columns.setdefault((method, name), []).append(math.nan if value is None else value)
        self.methods = list(self.histograms)
        self._columns = {place: np.array(values) for place, values in columns.items()}

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, method: str, name: str) -> bool:
        return (method, name) in self._columns

    def get(self, method: str, name: str) -> np.ndarray:
        return self._columns[method, name]

    def names(self, method: str) -> list[str]:
        return [name for m, name in self._columns if m == method]


def summarise(journal: Journal, columns: Columns, networks: Sequence[str]) -> dict:
    """The figures of an evaluation; those that are undefined are None, and `notes` says why."""
    notes: list[str] = []
    truth = "truth" in columns.methods
    figures: dict[str, dict[str, Any]] = {method: _figures(columns, method) for method in columns.methods}
    if truth and networks:
        _frechet(journal, columns, networks, figures, notes)
    if truth:
        _recognition(columns, figures, notes)
    if columns.psnr_at:
        at = {count: _mean(np.array(values)) for count, values in sorted(columns.psnr_at.items())}
        figures["ours"]["psnr_at"] = {str(count): value for count, value in at.items()}
        if 0 in at and 10 in at:
            figures["ours"]["psnr_at_10_over_psnr_at_0"] = at[10] - at[0]
    equal = {m: int(np.isnan(columns.get(m, "psnr")).sum()) for m in columns.methods if columns.has(m, "psnr")}
    for method, count in equal.items():
        if count:
            notes.append(f"{method}: {count} pictures equal the truth; the mean skips their infinite PSNR")
    gray = [record["key"] for record in columns.excluded] or _gray_truths(columns)
    if columns.excluded:
        notes.append(f"{len(gray)} grey truths (colourfulness under {GRAY_TRUTH:g}) were excluded")
    elif gray:
        notes.append(
            f"{len(gray)} truths are grey (colourfulness under {GRAY_TRUTH:g}); --exclude-gray leaves them out"
        )
    return {
        "pictures": len(columns),
        "unreadable": columns.errors,
        "gray_truths": {"count": len(gray), "excluded": bool(columns.excluded), "keys": gray[:50]},
        "notes": notes,
        "methods": _finite(figures),
        "intervals_95": _finite(_intervals(columns, figures)) if truth and len(columns) > 1 else {},
        "chroma_histograms": {
            "edges": [k * CHROMA_TOP / CHROMA_BINS for k in range(CHROMA_BINS + 1)],
            **{m: [round(v, 6) for v in (h / max(len(columns), 1)).tolist()] for m, h in columns.histograms.items()},
        },
        "groups": _finite(_groups(columns)),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _figures(columns: Columns, method: str, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    def mean(of: str, name: str) -> float:
        return _mean(columns.get(of, name)[rows])

    extra = [n for n in columns.names(method) if n not in MEANS and n != "top1"]
    names = [*(n for n in MEANS if columns.has(method, n)), *extra]
    values = {name: mean(method, name) for name in names}
    if method == "truth":
        return values
    if columns.has(method, "psnr"):
        values["psnr_over_gray"] = values["psnr"] - mean("gray", "psnr")
    for name in ("colorfulness", "colorfulness_signed"):
        if columns.has("truth", name):
            wanted = mean("truth", name)
            values[f"delta_{name}"] = metrics.delta_colorfulness(values[name], wanted)
            values[f"{name}_share_of_truth"] = values[name] / wanted if wanted else math.nan
    for name in extra:
        if name.startswith("distance_"):
            gray = mean("gray", name)
            values[f"{name}_share_of_gray"] = values[name] / gray if gray else math.nan
    return values


def _frechet(
    journal: Journal, columns: Columns, networks: Sequence[str], figures: dict[str, dict], notes: list[str]
) -> None:
    count = len(columns)
    if count < 2:
        notes.append("a Fréchet distance (FID) needs at least two pictures: undefined here")
    elif count < FEW:
        notes.append(f"Fréchet distances of {count} pictures are biased upwards: compare them only at equal counts")
    for network in networks:
        statistics = {}
        for method in columns.methods:
            statistics[method] = metrics.GaussianStatistics(FEATURES[network][0])
            for batch in journal.features(network, method):
                statistics[method].update(batch)
        for method in columns.methods:
            if method == "truth":
                continue
            name = f"frechet_{network}"
            figures[method][name] = math.nan
            if count > 1:
                figures[method][name] = metrics.frechet_distance(statistics[method], statistics["truth"])
            gray = figures["gray"].get(name, math.nan)
            figures[method][f"{name}_share_of_gray"] = figures[method][name] / gray if gray else math.nan


def _recognition(columns: Columns, figures: dict[str, dict], notes: list[str]) -> None:
    if not columns.has("truth", "top1"):
        return
    hits, labelled = _hits(columns)
    seen = columns.get("truth", "top1")
    if labelled.any():
        for method in columns.methods:
            figures[method]["accuracy"] = float(hits[method].mean())
            figures[method]["labelled"] = int(labelled.sum())
    else:
        notes.append("no picture has a label that names a class of ImageNet: accuracy is undefined (--labels)")
    gray = figures["gray"]
    gray["agreement"] = float((columns.get("gray", "top1") == seen).mean())
    for method in columns.methods:
        if method == "truth":
            continue
        mine = figures[method]
        mine["agreement"] = float((columns.get(method, "top1") == seen).mean())
        mine["agreement_recovery"] = metrics.semantic_recovery(mine["agreement"], gray["agreement"], 1.0)
        if labelled.any():
            lost = mine["accuracy"], gray["accuracy"], figures["truth"]["accuracy"]
            mine["semantic_recovery"] = metrics.semantic_recovery(*lost)


def _hits(columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Whether the classifier finds the label of each labelled picture; and which pictures are labelled."""
    labelled = np.array([index is not None for index in columns.classes], bool)
    classes = np.array([-1 if index is None else index for index in columns.classes])
    return {m: (columns.get(m, "top1") == classes)[labelled] for m in columns.methods}, labelled


def _gray_truths(columns: Columns) -> list[str]:
    if not columns.has("truth", "colorfulness"):
        return []
    return [k for k, value in zip(columns.keys, columns.get("truth", "colorfulness")) if value < GRAY_TRUTH]


def _intervals(columns: Columns, figures: dict[str, dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % intervals over the choice of pictures (percentile bootstrap, the same draws for every method)."""
    results: dict[str, dict[str, tuple[float, float]]] = {}
    gray, truth = columns.get("gray", "psnr"), columns.get("truth", "colorfulness")
    recognised = columns.has("truth", "top1")
    hits, labelled = _hits(columns) if recognised else ({}, np.zeros(0, bool))
    for method in columns.methods:
        if method in ("truth", "gray"):
            continue
        psnr, fullness = columns.get(method, "psnr"), columns.get(method, "colorfulness")
        mine = results[method] = {}
        mine["psnr"] = bootstrap(_mean, psnr)
        mine["psnr_over_gray"] = bootstrap(lambda a, b: _mean(a) - _mean(b), psnr, gray)
        mine["colorfulness_share_of_truth"] = bootstrap(lambda a, b: a.mean() / b.mean(), fullness, truth)
        if recognised:
            same, before = (columns.get(m, "top1") == columns.get("truth", "top1") for m in (method, "gray"))
            mine["agreement_recovery"] = bootstrap(
                lambda a, b: metrics.semantic_recovery(a.mean(), b.mean(), 1.0), same, before
            )
        if labelled.sum() > 1:
            mine["semantic_recovery"] = bootstrap(
                lambda a, b, c: metrics.semantic_recovery(a.mean(), b.mean(), c.mean()),
                *(hits[m] for m in (method, "gray", "truth")),
            )
    return results


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of a statistic of paired columns over pictures drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(columns[0])
    values = np.empty(draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in range(draws):
            rows = rng.integers(0, count, count)
            values[k] = statistic(*(column[rows] for column in columns))
    values = values[np.isfinite(values)]
    return tuple(np.percentile(values, (2.5, 97.5)).tolist()) if len(values) else (math.nan, math.nan)


def _groups(columns: Columns) -> dict[str, dict]:
    """Figures of each label or folder, the largest first."""
    rows: dict[str, list[int]] = {}
    for index, group in enumerate(columns.groups):
        if group is not None:
            rows.setdefault(group, []).append(index)
    found = {}
    for group, indices in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])):
        methods = {method: _figures(columns, method, np.array(indices)) for method in columns.methods}
        label = columns.classes[indices[0]]
        if label is not None and columns.has("truth", "top1"):
            for method in columns.methods:
                methods[method]["accuracy"] = float((columns.get(method, "top1")[indices] == label).mean())
        found[group] = {"pictures": len(indices), "methods": methods}
    return found


def _finite(value):
    """JSON has no NaN: what is undefined becomes None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
