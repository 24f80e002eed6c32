"""The figures as text: names, units, which way is better, and a table for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from .features import FEATURES, PERCEPTUAL, weights_report

NAMES = {"gray": "grey", "truth": "truth"}  # methods that have other names in tables


@dataclass(frozen=True)
class Figure:
    """How a figure is shown: `title`, `form` ("dB", "%", "points" or decimals), and whether more is better (None:
    neither)."""

    key: str
    title: str
    form: str
    more: bool | None = None


def figures(networks: list[str], perceptual: list[str]) -> list[Figure]:
    """Every figure of a report, in the order of its tables."""
    rows = [
        Figure("psnr", "PSNR (RGB, 255)", "dB", True),
        Figure("psnr_over_gray", "PSNR over grey's", "dB", True),
        Figure("ssim", "SSIM (RGB)", "4", True),
        Figure("delta_e2000", "ΔE2000", "2", False),
    ]
    rows += [Figure(name, f"{name} ({PERCEPTUAL[name][1]})", "4", False) for name in perceptual]
    rows += [
        Figure("colorfulness", "CF (absolute opponents)", "2"),
        Figure("delta_colorfulness", "ΔCF (absolute opponents)", "2", False),
        Figure("colorfulness_share_of_truth", "CF, share of the truth's", "%"),
        Figure("colorfulness_signed", "CF (signed opponents)", "2"),
        Figure("delta_colorfulness_signed", "ΔCF (signed opponents)", "2", False),
        Figure("chroma_error", "chroma error (a*, b*)", "2", False),
        Figure("edge_chroma_error", "chroma error at edges", "2", False),
    ]
    for name in networks:
        what = f"FID ({name.removeprefix('inception-')})" if name.startswith("inception-") else f"Fréchet ({name})"
        rows += [
            Figure(f"frechet_{name}", what, "3", False),
            Figure(f"frechet_{name}_share_of_gray", f"{what}, share of grey's", "%", False),
            Figure(f"distance_{name}_share_of_gray", f"distance of pairs ({name}), share of grey's", "%", False),
        ]
    rows += [
        Figure("accuracy", "accuracy of a classifier", "%", True),
        Figure("semantic_recovery", "semantic recovery", "%", True),
        Figure("agreement", "same class as the truth's", "%", True),
        Figure("agreement_recovery", "recovery of the truth's class", "%", True),
        Figure("psnr_at_10_over_psnr_at_0", "PSNR@10 over PSNR@0", "dB", True),
    ]
    return rows


def cell(value: float | None, form: str) -> str:
    """A figure as text."""
    if value is None:
        return "undefined"
    if form == "%":
        return f"{value:.1%}"
    return f"{value:.2f} dB" if form == "dB" else f"{value:.{form}f}"


def interval(ends: list[float] | None, form: str) -> str:
    """An interval as text; empty where there is none."""
    return "" if not ends or None in ends else f"{cell(ends[0], form)} to {cell(ends[1], form)}"


def shown(report: dict) -> list[Figure]:
    """The figures that a report has."""
    methods = report["methods"].values()
    rows = figures(list(report["networks"]), list(report["perceptual"]))
    return [row for row in rows if any(row.key in values for values in methods)]


def order(methods: list[str]) -> list[str]:
    """Grey, ours, others, truth."""
    first, last = [m for m in ("gray", "ours") if m in methods], [m for m in ("truth",) if m in methods]
    return [*first, *(m for m in methods if m not in (*first, *last)), *last]


def table(report: dict) -> str:
    """A report for the terminal: a measure a line, a method a column, an arrow for which way is better."""
    methods = order(list(report["methods"]))
    rows = [["", *(NAMES.get(m, m) for m in methods)]]
    arrows = {True: " ↑", False: " ↓", None: ""}
    for figure in shown(report):
        values = [report["methods"][m] for m in methods]
        cells = [cell(v[figure.key], figure.form) if figure.key in v else "" for v in values]
        rows.append([figure.title + arrows[figure.more], *cells])
    at = report["methods"].get("ours", {}).get("psnr_at", {})
    rows += [
        [f"PSNR@{count} ↑", *(cell(value, "dB") if m == "ours" else "" for m in methods)] for count, value in at.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
    head = f"{report['pictures']} pictures of {report['settings']['images']}, protocol {report['settings']['protocol']}"
    for method, found in report["intervals_95"].items():
        ends = interval(found.get("psnr_over_gray"), "dB")
        if ends:
            lines.append(f"{method}: PSNR over grey's {ends} (95 %, bootstrap over pictures)")
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"could not be read: {entry['error']}" for entry in report["unreadable"]]
    return "\n".join([head, *(line.rstrip() for line in lines)])


def about(names: list[str]) -> dict[str, dict]:
    """What each network's name stands for, and the weights that it was."""
    known = {**{n: v[2] for n, v in FEATURES.items()}, **{n: v[1] for n, v in PERCEPTUAL.items()}}
    return {name: {"about": known[name], **weights_report(name)} for name in names}
