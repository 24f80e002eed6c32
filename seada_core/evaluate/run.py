"""An evaluation from pictures to report: colour, measure, record, summarise."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..command_line import FAILED, FINE, INTERRUPTED
from ..errors import CommandError, one_line
from ..files import atomic, pictures
from ..options import ColorizeOptions
from ..pipeline import Colorizer
from . import features, hint_points, labels, metrics, page, report, sources, summary
from .journal import Journal
from .measure import GRAY_TRUTH, measure
from .options import STEERING, EvaluateOptions

AHEAD = 32  # pictures that are read while others are measured


@dataclass(frozen=True)
class Item:
    """A picture that was read: the truth (3, H, W) and the other methods' results."""

    index: int
    entry: sources.Entry
    truth: Tensor
    results: dict[str, Tensor]


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and why."""

    key: str
    error: str


def run(options: EvaluateOptions) -> int:
    """The command: evaluate, and print the figures. Returns the exit status.

    Raises:
        CommandError: nothing could be evaluated, or Ctrl-C.
    """
    try:
        found = evaluate(options)
    except KeyboardInterrupt:
        raise CommandError(f"interrupted; add --resume to continue {options.out}", INTERRUPTED) from None
    # SourceError, JournalError, WeightsError, PictureError and CheckpointError are ValueErrors
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise CommandError(one_line(error)) from error
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(report.table(found))
        print(f"wrote {options.out / 'report.json'} and {options.out / 'report.html'}")
    return FAILED if found["unreadable"] else FINE


def evaluate(options: EvaluateOptions, colorizer: Colorizer | None = None) -> dict:
    """Run an evaluation and write `report.json`, `report.html` and `ours/KEY.png` to `options.out`; return the report.

    Args:
        colorizer: in place of loading `options.model`, which is then only its name in the report.
    Raises:
        SourceError, JournalError, WeightsError, CheckpointError, ImportError: nothing can be evaluated; the message
            says why. What was measured before is kept, for `resume`.
    """
    features.load([*options.networks.features, *options.networks.perceptual], options.networks.device)
    entries = sources.choose(sources.find(options.images), options.protocol, options.names, options.limit)
    others = {name: sources.pair(entries, name, folder, options.common) for name, folder in options.compare.items()}
    entries = [entry for entry in entries if all(entry.key in results for results in others.values())]
    if not entries:
        raise sources.SourceError("no picture has a result by every method")
    known = labels.read_labels(options.labels) if options.labels else {}
    groups = [known.get(e.name, known.get(Path(e.name).stem, e.group)) for e in entries]
    classes = labels.class_indices(groups)
    if options.model is not None and colorizer is None:
        colorizer = Colorizer.from_pretrained(options.model, options.networks.device)
    settings = _settings(options, entries, colorizer)
    widths = {name: features.width(name) for name in options.networks.features}
    journal = Journal(options.out, settings, options.resume, widths)
    seconds = {"coloring": 0.0, "all": time.perf_counter()}
    try:
        places = hint_points.draw(len(entries), options.hint_counts, options.protocol.size)
        items = _read(entries, others, options, journal.done)
        for batch in _batches(_progress(items, len(entries), len(journal.done)), options.batch, journal):
            _measure(batch, options, colorizer, journal, places, groups, classes, seconds)
        seconds["all"] = time.perf_counter() - seconds["all"]
        return _report(options, entries, others, journal, settings, seconds)
    finally:
        journal.close()


def _settings(options: EvaluateOptions, entries: list[sources.Entry], colorizer: Colorizer | None) -> dict:
    """What a resumed run may not change."""
    keys = hashlib.sha256("\n".join(entry.key for entry in entries).encode()).hexdigest()[:16]
    return {
        "images": str(options.images),
        "pictures": len(entries),
        "keys_sha256": keys,
        "protocol": options.protocol.name,
        "model": options.model,
        "model_sha256": fingerprint(colorizer.folder) if colorizer is not None else None,
        "compare": {name: str(folder) for name, folder in options.compare.items()},
        "labels": str(options.labels) if options.labels else None,
        "features": list(options.networks.features),
        "perceptual": list(options.networks.perceptual),
        "truth": options.truth,
        "exclude_gray": options.exclude_gray,
        "hint_counts": list(options.hint_counts),
        **_steering(options.colorize),
    }


def _steering(options: ColorizeOptions) -> dict:
    """The seed, and other options that are not the default."""
    values, default = ({name: getattr(o, name) for name in STEERING} for o in (options, ColorizeOptions()))
    return {name: value for name, value in values.items() if name == "seed" or value != default[name]}


def fingerprint(folder: Path) -> str:
    """The start of the SHA-256 of a model folder's part files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _read(
    entries: list[sources.Entry],
    others: dict[str, dict[str, sources.Entry]],
    options: EvaluateOptions,
    done: dict[str, bool],
) -> Iterator[Item | Unreadable]:
    """Pictures that are not done yet, in order, read by a second thread."""

    def read(place: tuple[int, sources.Entry]) -> Item | Unreadable:
        index, entry = place
        try:
            truth, own_size = sources.read_truth(entry, options.protocol)
            results = {
                method: sources.read_result(found[entry.key], method, truth, own_size, options.protocol)
                for method, found in others.items()
            }
        except (pictures.PictureError, OSError) as error:
            text = one_line(error)
            return Unreadable(entry.key, text if entry.name in text else f"{entry.key}: {text}")
        return Item(index, entry, truth, results)

    waiting: deque[Future[Item | Unreadable]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for place in enumerate(entries):
            if place[1].key in done:
                continue
            waiting.append(pool.submit(read, place))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _progress(items: Iterable[Item | Unreadable], total: int, done: int) -> Iterator[Item | Unreadable]:
    return iter(tqdm(items, total=total, initial=done, unit="pic", leave=False, disable=not sys.stderr.isatty()))


def _batches(items: Iterable[Item | Unreadable], size: int, journal: Journal) -> Iterator[list[Item]]:
    """Runs of at most `size` consecutive pictures of one shape; unreadable ones are recorded and skipped."""

    def readable() -> Iterator[Item]:
        for item in items:
            if isinstance(item, Unreadable):
                print(f"error: {item.error}", file=sys.stderr)
                journal.skip(item.key, error=item.error)
            else:
                yield item

    for _, run in groupby(readable(), key=lambda item: item.truth.shape):
        while batch := list(islice(run, size)):
            yield batch


def _measure(
    batch: list[Item],
    options: EvaluateOptions,
    colorizer: Colorizer | None,
    journal: Journal,
    places: dict[int, Tensor],
    groups: list[str | None],
    classes: list[int | None],
    seconds: dict[str, float],
) -> None:
    truth = torch.stack([item.truth for item in batch])
    if options.exclude_gray:
        kept = metrics.colorfulness(truth) >= GRAY_TRUTH
        for item in (item for item, keep in zip(batch, kept) if not keep):
            journal.skip(item.entry.key, excluded="grey truth")
        batch, truth = [item for item, keep in zip(batch, kept) if keep], truth[kept]
        if not batch:
            return
    gray = sources.gray_of(truth)
    methods = {"truth": truth, "gray": gray} if options.truth else {}
    at: dict[int, list[float]] = {}
    if colorizer is not None:
        started = time.perf_counter()
        methods["ours"] = sources.to_8bit(colorizer(gray, options.colorize).float().cpu())
        seconds["coloring"] += time.perf_counter() - started
        for item, result in zip(batch, methods["ours"]):
            _save(result, options.out / "ours" / f"{item.entry.key}.png")
        for count, drawn in places.items():
            result = methods["ours"]
            if count:
                hints = torch.stack([hint_points.reveal(t, drawn[item.index]) for t, item in zip(truth, batch)])
                result = sources.to_8bit(colorizer(gray, options.colorize, hints=hints).float().cpu())
            at[count] = metrics.psnr(result, truth).tolist()
    for method in options.compare:
        methods[method] = torch.stack([item.results[method] for item in batch])
    records, pooled = measure(methods, options.networks, options.truth)
    lines: list[dict[str, Any]] = []
    for k, (item, values) in enumerate(zip(batch, records)):
        lines.append(
            {"key": item.entry.key, "group": groups[item.index], "class": classes[item.index], "methods": values}
        )
        if at:
            lines[-1]["psnr_at"] = {count: psnr[k] for count, psnr in at.items()}
    journal.add(lines, pooled if options.truth else {})


def _save(rgb: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.opened(path, durable=False) as file:
        sources.to_image(rgb).save(file, "PNG", compress_level=4)


def _report(
    options: EvaluateOptions,
    entries: list[sources.Entry],
    others: dict[str, dict[str, sources.Entry]],
    journal: Journal,
    settings: dict,
    seconds: dict[str, float],
) -> dict:
    columns = summary.Columns(journal)
    if not len(columns):
        raise sources.SourceError(f"none of {len(entries)} pictures could be evaluated; see {journal.path}")
    found = {
        "about": options.protocol.about,
        "made": options.made,
        "settings": settings,
        "networks": report.about(list(options.networks.features)) if options.truth else {},
        "perceptual": report.about(list(options.networks.perceptual)) if options.truth else {},
        **summary.summarise(journal, columns, options.networks.features if options.truth else ()),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "threads": torch.get_num_threads(),
    }
    atomic.write_text(options.out / "report.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    look = _looker(options, {entry.key: entry for entry in entries}, others)
    atomic.write_text(options.out / "report.html", page.render(found, cases(columns), look))
    return found


def cases(columns: summary.Columns, shown: int = page.SHOWN) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Which pictures a page shows: the worst and the best of ours (or of the first method) by PSNR over grey's, or by
    colourfulness without a truth, and some evenly spaced among the rest. A picture is in only one section."""
    measured = [m for m in columns.methods if m not in ("truth", "gray")]
    if not measured:
        return {}
    main = "ours" if "ours" in measured else measured[0]
    if columns.has(main, "psnr"):
        score = columns.get(main, "psnr") - columns.get("gray", "psnr")
        titles = "Worst by PSNR over grey's", "Best"
    else:
        score, titles = columns.get(main, "colorfulness"), ("Least colourful", "Most colourful")
    ranked = [int(i) for i in score.argsort(kind="stable") if score[i] == score[i]]
    few = min(shown, max(1, len(ranked) // 3))
    worst = ranked[:few]
    best = [i for i in ranked[::-1][:few] if i not in worst]
    rest = [i for i in range(len(columns)) if i not in {*worst, *best}]
    sample = rest[:: max(1, len(rest) // shown)][:shown]

    def captions(index: int) -> dict[str, str]:
        texts = {}
        for method in columns.methods:
            name, unit = ("psnr", " dB") if columns.has(method, "psnr") else ("colorfulness", "")
            value = columns.get(method, name)[index]
            texts[method] = f"{'CF ' if name != 'psnr' else ''}{value:.1f}{unit}"
        return texts

    sections = {titles[0]: worst, titles[1]: best, "Spread evenly over the rest": sample}
    return {title: [(columns.keys[i], captions(i)) for i in chosen] for title, chosen in sections.items()}


def _looker(
    options: EvaluateOptions, entries: dict[str, sources.Entry], others: dict[str, dict[str, sources.Entry]]
) -> Callable[[str], dict[str, Image.Image] | None]:
    def look(key: str) -> dict[str, Image.Image] | None:
        try:
            truth, own_size = sources.read_truth(entries[key], options.protocol)
            shown = {"gray": sources.to_image(sources.gray_of(truth)), "truth": sources.to_image(truth)}
            if not options.truth:
                del shown["truth"]
            if options.model is not None:
                shown["ours"] = pictures.to_pil(pictures.read(options.out / "ours" / f"{key}.png"))
            for method, found in others.items():
                result = sources.read_result(found[key], method, truth, own_size, options.protocol)
                shown[method] = sources.to_image(result)
            return shown
        except (pictures.PictureError, OSError):
            return None

    return look
