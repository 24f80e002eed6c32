"""Weights of other makes in, weights for others out: `python -m seada_core.convert SOURCE [OUT]`."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..files import atomic
from ..presets import SD15, ControlConfig, TextConfig, UNetConfig, VAEConfig

if TYPE_CHECKING:
    import torch

    from ..weights.stable_diffusion import Base
    from ..weights.state_dicts import Report
    from ..weights.stock_controlnet import StockWeights


def _parse(argv: list[str]):
    import tyro

    @dataclass(frozen=True)
    class Arguments:
        """Convert weights between Stable Diffusion 1.5's forms and part files, and say of every tensor where it went.

        Without OUT nothing is written: what SOURCE is and how it fits is reported, from its headers alone.

        Exit status: 0 converted, 1 something does not fit or cannot be read, 2 bad usage.
        """

        source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
        """A single file in the original names, a diffusers folder or a hub name, of Stable Diffusion 1.5, of a VAE of
        its latents or of a ControlNet; or a folder of part files, or "mini"."""
        out: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[OUT]")]] = None
        """A new folder."""
        to: Literal["parts", "diffusers"] = "parts"
        """Part files, for the nodes and the other commands; or what diffusers loads."""
        base: str | None = None
        """Stable Diffusion 1.5, whose UNet and text encoder join part files that have none."""
        control: str | None = None
        """A stock ControlNet: a controller starts from it (parts), or it joins the pipeline (diffusers)."""
        vae: str | None = None
        """A VAE for the pipeline, in place of SOURCE's own."""
        dtype: Literal["float32", "float16", "bfloat16"] = "float32"
        """In which the weights are stored."""
        ema: bool = False
        """Take the averaged UNet of a single file that holds both."""
        strict: bool = True
        """Fail where a tensor is missing, unexpected or misshapen. Otherwise what does not fit is left out, and what is
        missing is random."""
        download: bool = False
        """Fetch a hub name that is not in the local cache."""
        overwrite: bool = False
        """Replace OUT."""
        json: bool = False
        """One JSON object on standard output, and nothing else there."""
        unet: UNetConfig = field(default=SD15.unet)
        """Sizes of a single file, which does not tell them."""
        text: TextConfig = field(default=SD15.text)
        vae_sizes: VAEConfig = field(default=VAEConfig())
        controller: ControlConfig = field(default=SD15.control)
        """Of a controller that starts from a ControlNet."""

    return tyro.cli(Arguments, args=argv, prog="python -m seada_core.convert")


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed; bad usage exits with 2."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    from ..files.weight_headers import CheckpointError

    result = Result(arguments.source, None if arguments.out is None else str(arguments.out))
    try:
        Conversion(arguments, result).run()
    except (CheckpointError, OSError) as error:
        result.error = " ".join(str(error).split())
    if arguments.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        print("\n".join(result.lines()))
    if result.error:
        print(f"error: {result.error}", file=sys.stderr)
        return 1
    return 0


@dataclass
class Result:
    """What was found and done."""

    source: str
    out: str | None
    kind: str | None = None
    reports: "list[Report]" = field(default_factory=list)
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


def _lines(report: "Report") -> Iterator[str]:
    if report.part != NO_PART:
        yield f"{report.part}: {report.loaded} tensors fit"
    for reason, count in report.ignored.items():
        yield f"  {count} left out: {reason}"
    shapes = [f"{name} is {list(found)}, expected {list(wanted)}" for name, (found, wanted) in report.misshapen.items()]
    for what, names in (("misshapen", shapes), ("missing", report.missing), ("unexpected", report.unexpected)):
        for name in names[:SHOWN]:
            yield f"  {what}: {name}"
        if len(names) > SHOWN:
            yield f"  {what}: {len(names) - SHOWN} more, which --json lists"
    for note in report.notes:
        yield f"  not taken: {note}"


SHOWN = 20  # names of a kind on a terminal
NO_PART = "no part"  # of what a single file holds besides


class Conversion:
    """One run of the command."""

    def __init__(self, arguments, result: Result):
        self.arguments, self.result = arguments, result
        self.preset = dataclasses.replace(SD15, unet=arguments.unet, text=arguments.text, control=arguments.controller)

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        return getattr(torch, self.arguments.dtype)

    def run(self) -> None:
        """Raises CheckpointError where something does not fit."""
        kind, text = identify(self.arguments.source, self.arguments.download)
        self.result.kind = text
        if self.arguments.out is None:
            getattr(self, f"_{kind}_{self.arguments.to}")(None)
            return
        with new_folder(self.arguments.out, self.arguments.overwrite) as out:
            getattr(self, f"_{kind}_{self.arguments.to}")(out)
            files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
            self.result.files = [path.as_posix() for path in files]

    # each of these reports, and writes where `out` is not None

    def _base_parts(self, out: Path | None) -> None:
        from ..weights import part_files

        base = self._base(self.arguments.source)
        control = self._stock(self.arguments.control, base.preset.unet) if self.arguments.control else None
        self._check(base)
        if base.has("vae"):
            self.result.notes.append("vae: no part file has it; the training's --encoder takes it where it is")
        if out is None:
            return
        for part in ("unet", "semantic_encoder"):
            module, _ = base.load(part, self.arguments.strict)
            part_files.save_part(out / f"{part}.safetensors", part, base.preset, module, self.dtype)
            del module
        if control is not None:
            self._start(control, base.preset, out)

    def _base_diffusers(self, out: Path | None) -> None:
        from ..weights.parts import Parts

        base = self._base(self.arguments.source)
        self._check(base, vae=self.arguments.vae is None and base.has("vae"))
        self._export(Parts(None, base, self._control_path()), base, out)

    def _parts_parts(self, out: Path | None) -> None:
        from ..weights import part_files

        folder = part_files.model_folder(self.arguments.source)
        self._check_parts(folder)
        if out is not None:
            part_files.convert(folder, out, self.dtype)

    def _parts_diffusers(self, out: Path | None) -> None:
        from ..weights import part_files
        from ..weights.parts import Parts

        base = self._base(self.arguments.base) if self.arguments.base else None
        if base is not None:
            self._check(base, vae=self.arguments.vae is None and base.has("vae"))
        folder = part_files.model_folder(self.arguments.source)
        self._check_parts(folder)
        self._export(Parts(folder, base, self._control_path()), base, out)

    def _controlnet_parts(self, out: Path | None) -> None:
        self._start(self._stock(self.arguments.source, self.preset.unet), self.preset, out)

    def _controlnet_diffusers(self, out: Path | None) -> None:
        stock = self._stock(self.arguments.source, self.preset.unet)
        if out is not None:
            _save(stock.load(self.arguments.strict)[0].net, out, self.dtype)

    def _vae_parts(self, out: Path | None) -> None:
        from ..files.weight_headers import CheckpointError

        self._vae(self.arguments.source, read=False)
        if out is not None:
            raise CheckpointError(
                "no part file has a VAE: give it to the training's --encoder as it is, or convert it --to diffusers"
            )

    def _vae_diffusers(self, out: Path | None) -> None:
        vae = self._vae(self.arguments.source, read=out is not None)
        if out is not None:
            _save(vae, out, self.dtype)

    # ---

    def _check_parts(self, folder: Path) -> None:
        from ..weights import part_files
        from ..weights.state_dicts import Report

        for part in part_files.SECTIONS:
            file = folder / f"{part}.safetensors"
            if file.is_file():
                header, _, _ = part_files.plan_part(file, part)
                self.result.reports.append(Report(part, str(file), len(header.shapes)))

    def _base(self, path: str) -> "Base":
        from ..weights.stable_diffusion import Base

        a = self.arguments
        return Base(path, self.preset, a.vae_sizes, a.download, a.ema)

    def _check(self, base: "Base", vae: bool = False) -> None:
        for part in ("unet", "semantic_encoder", *(["vae"] if vae else [])):
            report = base.report(part)
            self.result.reports.append(report)
            report.require(self.arguments.strict)
        self.result.reports.append(base.left_out())

    def _stock(self, path: str, unet: UNetConfig) -> "StockWeights":
        from ..weights.stock_controlnet import StockWeights

        stock = StockWeights(path, unet, self.arguments.download)
        report = stock.report()
        self.result.reports.append(report)
        report.require(self.arguments.strict)
        return stock

    def _vae(self, path: str, read: bool):
        from ..weights.state_dicts import on_meta
        from ..weights.vae import build_vae, load_vae, open_vae

        a = self.arguments
        weights, config = open_vae(path, a.vae_sizes, a.download)
        report = weights.report("vae", on_meta(lambda: build_vae(config)))
        self.result.reports.append(report)
        report.require(a.strict)
        return load_vae(path, a.vae_sizes, a.strict, a.download)[0] if read else None

    def _start(self, stock: "StockWeights", preset, out: Path | None) -> None:
        """A controller that starts from a stock ControlNet, as a part file."""
        from ..weights import part_files
        from ..weights.stock_controlnet import controller_from

        if out is None:
            return
        control, not_taken = controller_from(stock.load(self.arguments.strict)[0], preset)
        next(report for report in self.result.reports if report.part == "controlnet").notes += not_taken
        part_files.save_part(out / "controlnet_rca.safetensors", "controlnet_rca", preset, control, self.dtype)

    def _control_path(self) -> Path | None:
        from ..weights.locations import find

        return find(self.arguments.control, self.arguments.download) if self.arguments.control else None

    def _export(self, parts, base: "Base | None", out: Path | None) -> None:
        from ..weights.export import export_diffusers

        vae = None
        if self.arguments.vae:
            vae = self._vae(self.arguments.vae, read=out is not None)
        elif out is not None and base is not None and base.has("vae"):
            vae = base.load("vae", self.arguments.strict)[0]
        if out is not None:
            self.result.notes += export_diffusers(parts, out, vae, self.dtype)


def _save(module, out: Path, dtype: "torch.dtype") -> None:
    from torch import nn

    nn.Module.to(module, dtype).save_pretrained(out, safe_serialization=True)


def identify(source: str, download: bool = False) -> tuple[str, str]:
    """What a source is: base, controlnet, vae or parts; and in words.

    Raises:
        CheckpointError: nothing is there, or nothing that can be converted.
    """
    from ..files import weight_headers
    from ..files.weight_headers import CheckpointError
    from ..weights import part_files, stable_diffusion

    if source == "mini":
        return "parts", "the embedded model"
    path = stable_diffusion.find(source, download)
    if path.is_file():
        kind = weight_headers.expect(
            weight_headers.read_header(path),
            ("checkpoint", "controlnet", "vae"),
            "a Stable Diffusion 1.5 checkpoint, a ControlNet or VAE of it, or a folder",
        )
        return {"checkpoint": "base"}.get(kind.name, kind.name), kind.text
    if (path / "config.json").is_file():
        name = stable_diffusion.read_json(path / "config.json").get("_class_name")
        known = {"ControlNetModel": "controlnet", "AutoencoderKL": "vae"}
        if name not in known:
            raise CheckpointError(
                f"{path} holds a {name or 'model'} alone; expected {' or '.join(known)}, or a whole one"
            )
        return known[name], f"a diffusers folder ({name})"
    if any((path / f"{part}.safetensors").is_file() for part in part_files.SECTIONS):
        return "parts", "a folder of part files"
    return "base", "a diffusers folder"


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write to, which takes its name once all is written.

    Raises:
        CheckpointError: something is there already.
    """
    from ..files.weight_headers import CheckpointError

    taken = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if taken and not overwrite:
        raise CheckpointError(f"{path} exists; use --overwrite to replace it, or choose another OUT")
    with atomic.new_folder(path, overwrite=True) as part:
        yield part


if __name__ == "__main__":
    sys.exit(main())
