"""The report as one self-contained HTML file: no script, no network, embedded pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from html import escape

from PIL import Image

from . import report as text

THUMBNAIL = 168  # longest side, px
SHOWN = 12  # pictures per section
GROUPS_SHOWN = 200
COLORS = {"truth": "#222", "ours": "#0a7"}
OTHER_COLORS = ("#c40", "#26c", "#a0a", "#b80", "#078")

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr:nth-child(even) td { background: #f4f4f4; }
th { border-bottom: 1px solid #888; } td.best { font-weight: 600; }
.note { color: #555; } .wide { overflow-x: auto; } code { overflow-wrap: anywhere; }
.case { display: flex; gap: .5rem; margin: .8rem 0; flex-wrap: wrap; align-items: flex-start; }
.case figure { margin: 0; }
.case figcaption { font-size: .8rem; color: #555; max-width: 168px; overflow-wrap: anywhere; }
.case .name { flex-basis: 100%; font-size: .85rem; overflow-wrap: anywhere; } svg { max-width: 100%; }
"""

# Pictures of a key by method, with "gray" (the input); None where they can no longer be read.
Look = Callable[[str], dict[str, Image.Image] | None]


def render(report: dict, cases: dict[str, list[tuple[str, dict[str, str]]]], look: Look) -> str:
    """The page.

    Args:
        report: of `evaluate.run`.
        cases: section title to (key, caption by method).
        look: the pictures of a key.
    """
    methods = text.order(list(report["methods"]))
    settings = report["settings"]
    parts = [
        f"<h1>{report['pictures']} pictures of {escape(str(settings['images']))}</h1>",
        f'<p class="note">{escape(report["about"])}. {escape(report["made"])}.</p>',
        _figures(report, methods),
        "".join(f'<p class="note">{escape(note)}</p>' for note in report["notes"]),
        _unreadable(report["unreadable"]),
        *(_section(title, entries, methods, look) for title, entries in cases.items() if entries),
        "<h2>Chroma</h2>",
        '<p class="note">Share of pixels by C*<sub>ab</sub>, the mean over pictures, on a square-root scale.</p>',
        _histogram(report["chroma_histograms"], methods),
        _groups(report, methods),
        "<h2>Settings</h2>",
        _settings(report),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {escape(str(settings['images']))}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(part for part in parts if part)
        + "</body></html>\n"
    )


def _name(method: str) -> str:
    return escape(text.NAMES.get(method, method))


def _table(head: list[str], rows: Iterable[list[str]], best: Iterable[int | None] = ()) -> str:
    """Cells are HTML already; `best` is the column to highlight in each row."""
    marks = [*best]
    lines = ["<tr>" + "".join(f"<th>{c}</th>" for c in head) + "</tr>"]
    for index, row in enumerate(rows):
        mark = marks[index] if index < len(marks) else None
        cells = [f'<td class="best">{c}</td>' if k == mark else f"<td>{c}</td>" for k, c in enumerate(row)]
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _figures(report: dict, methods: list[str]) -> str:
    rows, best = [], []
    for figure in text.shown(report):
        arrow = {True: " ↑", False: " ↓", None: ""}[figure.more]
        cells, values = [escape(figure.title) + arrow], {}
        for column, method in enumerate(methods, 1):
            found = report["methods"][method]
            cells.append(text.cell(found[figure.key], figure.form) if figure.key in found else "")
            if found.get(figure.key) is not None and method not in ("truth", "gray"):
                values[column] = found[figure.key]
            ends = text.interval(report["intervals_95"].get(method, {}).get(figure.key), figure.form)
            if ends:
                cells[-1] = f'<span title="95 % over pictures: {ends}">{cells[-1]}</span>'
        rows.append(cells)
        pick = max if figure.more else min
        best.append(pick(values, key=values.__getitem__) if figure.more is not None and len(values) > 1 else None)
    at = report["methods"].get("ours", {}).get("psnr_at", {})
    for count, value in at.items():
        rows.append([f"PSNR@{count} ↑", *(text.cell(value, "dB") if m == "ours" else "" for m in methods)])
    return _table(["", *map(_name, methods)], rows, best)


def _unreadable(entries: list[dict]) -> str:
    if not entries:
        return ""
    lines = "".join(f"<li>{escape(entry['error'])}</li>" for entry in entries)
    return f"<h2>Could not be read, skipped for every method</h2><ul>{lines}</ul>"


def _section(title: str, entries: list[tuple[str, dict[str, str]]], methods: list[str], look: Look) -> str:
    lines = [f"<h2>{escape(title)}</h2>"]
    for key, captions in entries:
        images = look(key)
        figures = [f'<div class="name">{escape(key)}</div>']
        for method in methods:
            caption = escape(captions.get(method, ""))
            if images is None or method not in images:
                continue
            name = "input" if method == "gray" else _name(method)
            data = _data(images[method])
            figures.append(
                f'<figure><img src="{data}" alt="{escape(key)}, {name}">'
                f"<figcaption>{name} {caption}</figcaption></figure>"
            )
        lines.append(f'<div class="case">{"".join(figures)}</div>')
    return "\n".join(lines)


def _data(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _histogram(histograms: dict, methods: list[str]) -> str:
    width, height, left, bottom = 720, 240, 8, 22
    edges = histograms["edges"]
    top = max((max(histograms[m][1:]) for m in methods if m != "gray"), default=0) ** 0.5 or 1.0
    others = iter(OTHER_COLORS * len(methods))
    lines: list[str] = []
    legend: list[str] = []
    for method in methods:
        if method == "gray":
            continue
        color = COLORS[method] if method in COLORS else next(others)
        points = " ".join(
            f"{left + (edges[k] + edges[k + 1]) / 2 / edges[-1] * width:.1f},"
            f"{height - min(value**0.5 / top, 1.0) * (height - 12):.1f}"
            for k, value in enumerate(histograms[method])
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        y = 16 + 18 * len(legend)
        legend.append(f'<text x="{width - 150}" y="{y}" fill="{color}" font-size="14">{_name(method)}</text>')
    ticks = "".join(
        f'<text x="{left + value / edges[-1] * width:.0f}" y="{height + bottom - 6}" font-size="12" '
        f'text-anchor="middle">{value}</text>'
        for value in range(0, int(edges[-1]) + 1, 16)
    )
    axis = f'<line x1="{left}" y1="{height}" x2="{left + width}" y2="{height}" stroke="#888"/>'
    return (
        f'<svg viewBox="0 0 {width + 2 * left + 10} {height + bottom}" width="{width + 30}" role="img" '
        f'aria-label="histogram of chroma">{axis}{ticks}{"".join(lines)}{"".join(legend)}</svg>'
    )


def _groups(report: dict, methods: list[str]) -> str:
    groups = report["groups"]
    if not groups:
        return ""
    columns = [
        (figure, method)
        for figure in text.figures([], [])
        for method in methods
        if figure.key in ("psnr_over_gray", "colorfulness_share_of_truth", "accuracy", "colorfulness")
        and (figure.key != "colorfulness" or "truth" not in methods)
        and not (method == "gray" and figure.key != "accuracy")
        and any(figure.key in found["methods"][method] for found in groups.values())
    ]
    head = ["class", "pictures", *(f"{escape(f.title)}, {_name(m)}" for f, m in columns)]
    rows = []
    for group, found in list(groups.items())[:GROUPS_SHOWN]:
        cells = [found["methods"][m].get(f.key, "") for f, m in columns]
        shown = ["" if c == "" else text.cell(c, f.form) for c, (f, _) in zip(cells, columns)]
        rows.append([escape(group), str(found["pictures"]), *shown])
    more = len(groups) - len(rows)
    rest = f'<p class="note">and {more} smaller ones, in report.json</p>' if more > 0 else ""
    return f"<h2>By class</h2>{_table(head, rows)}{rest}"


def _settings(report: dict) -> str:
    rows = [[escape(name), f"<code>{escape(str(value))}</code>"] for name, value in report["settings"].items()]
    for name, about in {**report["networks"], **report["perceptual"]}.items():
        line = about["about"]
        if "file" in about:
            line += f"; {about['file']}, SHA-256 {about['sha256']}..."
            line += "" if about["released"] else ", which is not the released file's"
        rows.append([escape(name), escape(line)])
    return _table(["", ""], rows)
