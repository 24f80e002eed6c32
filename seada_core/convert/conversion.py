"""One conversion: what a source is, whether it fits, and where its tensors go."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..command_line import FAILED, FINE
from ..errors import one_line
from ..files import atomic, weight_headers
from ..files.weight_headers import CheckpointError
from ..presets import SD15, Preset, UNetConfig
from ..weights import part_files
from ..weights.export import export_diffusers, save_model
from ..weights.locations import find, read_json
from ..weights.parts import Parts
from ..weights.stable_diffusion import Base
from ..weights.state_dicts import Report, on_meta
from ..weights.stock_controlnet import StockWeights, controller_from
from ..weights.vae import build_vae, load_vae, open_vae
from .options import ConvertOptions

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SHOWN = 20  # names of a kind on a terminal
NO_PART = "no part"  # the report on what a single file holds besides parts


def run(options: ConvertOptions) -> int:
    """The command: convert, and print what was found and done. Returns the exit status."""
    result = Result(options.source, None if options.out is None else str(options.out))
    try:
        Conversion(options, result).run()
    except (CheckpointError, OSError) as error:
        result.error = one_line(error)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        print("\n".join(result.lines()))
    if result.error:
        print(f"error: {result.error}", file=sys.stderr)
        return FAILED
    return FINE


@dataclass
class Result:
    """What was found and done."""

    source: str
    out: str | None
    kind: str | None = None
    reports: list[Report] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def lines(self) -> Iterator[str]:
        if self.kind:
            yield f"{self.source} is {self.kind}"
        for report in self.reports:
            yield from _lines(report)
        yield from self.notes
        if self.out and not self.error:
            yield f"{self.out}: {', '.join(self.files)}"


def _lines(report: Report) -> Iterator[str]:
    if report.part != NO_PART:
        yield f"{report.part}: {report.loaded} tensors fit"
    for reason, count in report.ignored.items():
        yield f"  {count} skipped: {reason}"
    shapes = [f"{name} is {list(found)}, expected {list(wanted)}" for name, (found, wanted) in report.misshapen.items()]
    for what, names in (("misshapen", shapes), ("missing", report.missing), ("unexpected", report.unexpected)):
        for name in names[:SHOWN]:
            yield f"  {what}: {name}"
        if len(names) > SHOWN:
            yield f"  {what}: {len(names) - SHOWN} more, which --json lists"
    for note in report.notes:
        yield f"  not taken: {note}"


class Conversion:
    """One run of the command."""

    def __init__(self, options: ConvertOptions, result: Result):
        self.options, self.result = options, result
        self.preset = replace(SD15, unet=options.unet, text=options.text, control=options.controller)

    @property
    def dtype(self) -> torch.dtype:
        """In which weights are stored."""
        return getattr(torch, self.options.dtype)

    def run(self) -> None:
        """Raises CheckpointError where something does not fit."""
        kind, text = identify(self.options.source, self.options.download)
        self.result.kind = text
        if self.options.out is None:
            getattr(self, f"_{kind}_{self.options.to}")(None)
            return
        with new_folder(self.options.out, self.options.overwrite) as out:
            getattr(self, f"_{kind}_{self.options.to}")(out)
            files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
            self.result.files = [path.as_posix() for path in files]

    # each of these reports, and writes where `out` is not None

    def _base_parts(self, out: Path | None) -> None:
        base = self._base(self.options.source)
        control = self._stock(self.options.control, base.preset.unet) if self.options.control else None
        self._check(base)
        if base.has("vae"):
            self.result.notes.append("vae: no part file has it; the training's --encoder takes it where it is")
        if out is None:
            return
        for part in ("unet", "semantic_encoder"):
            module, _ = base.load(part, self.options.strict)
            part_files.save_part(out / f"{part}.safetensors", part, base.preset, module, self.dtype)
            del module
        if control is not None:
            self._start(control, base.preset, out)

    def _base_diffusers(self, out: Path | None) -> None:
        base = self._base(self.options.source)
        self._check(base, vae=self.options.vae is None and base.has("vae"))
        self._export(Parts(None, base, self._control_path()), base, out)

    def _parts_parts(self, out: Path | None) -> None:
        folder = part_files.model_folder(self.options.source)
        self._check_parts(folder)
        if out is not None:
            part_files.convert(folder, out, self.dtype)

    def _parts_diffusers(self, out: Path | None) -> None:
        base = self._base(self.options.base) if self.options.base else None
        if base is not None:
            self._check(base, vae=self.options.vae is None and base.has("vae"))
        folder = part_files.model_folder(self.options.source)
        self._check_parts(folder)
        self._export(Parts(folder, base, self._control_path()), base, out)

    def _controlnet_parts(self, out: Path | None) -> None:
        self._start(self._stock(self.options.source, self.preset.unet), self.preset, out)

    def _controlnet_diffusers(self, out: Path | None) -> None:
        stock = self._stock(self.options.source, self.preset.unet)
        if out is not None:
            save_model(stock.load(self.options.strict)[0].net, out, self.dtype)

    def _vae_parts(self, out: Path | None) -> None:
        self._check_vae(self.options.source)
        if out is not None:
            raise CheckpointError(
                "no part file has a VAE: give it to the training's --encoder as it is, or convert it --to diffusers"
            )

    def _vae_diffusers(self, out: Path | None) -> None:
        self._check_vae(self.options.source)
        if out is not None:
            save_model(self._load_vae(self.options.source), out, self.dtype)

    def _check_parts(self, folder: Path) -> None:
        for part in part_files.SECTIONS:
            file = folder / f"{part}.safetensors"
            if file.is_file():
                header, _, _ = part_files.plan_part(file, part)
                self.result.reports.append(Report(part, str(file), len(header.shapes)))

    def _base(self, path: str) -> Base:
        options = self.options
        return Base(path, self.preset, options.vae_sizes, options.download, options.ema)

    def _check(self, base: Base, vae: bool = False) -> None:
        for part in ("unet", "semantic_encoder", *(["vae"] if vae else [])):
            report = base.report(part)
            self.result.reports.append(report)
            report.require(self.options.strict)
        self.result.reports.append(base.left_out())

    def _stock(self, path: str, unet: UNetConfig) -> StockWeights:
        stock = StockWeights(path, unet, self.options.download)
        report = stock.report()
        self.result.reports.append(report)
        report.require(self.options.strict)
        return stock

    def _check_vae(self, path: str) -> None:
        options = self.options
        weights, config = open_vae(path, options.vae_sizes, options.download)
        report = weights.report("vae", on_meta(lambda: build_vae(config)))
        self.result.reports.append(report)
        report.require(options.strict)

    def _load_vae(self, path: str) -> AutoencoderKL:
        options = self.options
        return load_vae(path, options.vae_sizes, options.strict, options.download)[0]

    def _start(self, stock: StockWeights, preset: Preset, out: Path | None) -> None:
        """Write a controller that starts from a stock ControlNet, as a part file."""
        if out is None:
            return
        control, not_taken = controller_from(stock.load(self.options.strict)[0], preset)
        next(report for report in self.result.reports if report.part == "controlnet").notes += not_taken
        part_files.save_part(out / "controlnet_rca.safetensors", "controlnet_rca", preset, control, self.dtype)

    def _control_path(self) -> Path | None:
        return find(self.options.control, self.options.download) if self.options.control else None

    def _export(self, parts: Parts, base: Base | None, out: Path | None) -> None:
        if self.options.vae:
            self._check_vae(self.options.vae)
        if out is None:
            return
        vae = None
        if self.options.vae:
            vae = self._load_vae(self.options.vae)
        elif base is not None and base.has("vae"):
            vae = base.load("vae", self.options.strict)[0]
        self.result.notes += export_diffusers(parts, out, vae, self.dtype)


def identify(source: str, download: bool = False) -> tuple[str, str]:
    """The kind of a source (base, controlnet, vae or parts), and its description.

    Raises:
        CheckpointError: nothing is there, or nothing that can be converted.
    """
    if source == "mini":
        return "parts", "the embedded model"
    path = find(source, download)
    if path.is_file():
        kind = weight_headers.expect(
            weight_headers.read_header(path),
            ("checkpoint", "controlnet", "vae"),
            "a Stable Diffusion 1.5 checkpoint, a ControlNet or VAE of it, or a folder",
        )
        return {"checkpoint": "base"}.get(kind.name, kind.name), kind.text
    if (path / "config.json").is_file():
        name = read_json(path / "config.json").get("_class_name")
        known = {"ControlNetModel": "controlnet", "AutoencoderKL": "vae"}
        if name not in known:
            raise CheckpointError(
                f"{path} holds only a {name or 'model'}; expected {' or '.join(known)}, or a whole model"
            )
        return known[name], f"a diffusers folder ({name})"
    if any((path / f"{part}.safetensors").is_file() for part in part_files.SECTIONS):
        return "parts", "a folder of part files"
    return "base", "a diffusers folder"


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder to write to, which is renamed to `path` once everything is written.

    Raises:
        CheckpointError: something is there already.
    """
    taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken and not overwrite:
        raise CheckpointError(f"{path} exists; use --overwrite to replace it, or choose another OUT")
    with atomic.new_folder(path, overwrite=True) as part:
        yield part
