"""The papers' ablations at a small scale: `python -m benchmarks.quality.ablations TABLE --data
SHARDS ...`.

    seada-stages      SeAda Table 2: which training stages
    seada-adapter     SeAda Table 3: parts of the adapter
    seada-control     SeAda Table 4: RCA, residuals, its sites
    seada-captioner   SeAda Table 5: captioners
    edn-decoder       EDN Table 3: decoders
    edn-sampling      EDN Table 4: temperature, guidance, steps
    edn-ccd           the terms of EDN's L_CCD, in guidance

All rows of a table use the same data, steps and seeds. The first three tables train, by `python -m seada_core.train`:
base and controller once per seed, then each row's stages; unknown options are passed to that command (`--batch 8 --lr
1e-4`). The others evaluate `--model`. Finished rows are not run again. The papers' figures are at their own size
(SD1.5, ImageNet, FID): compare directions, not numbers; the table says where a direction differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seada_core.errors import one_line
from seada_core.evaluate.protocols import PROTOCOLS
from seada_core.weights import part_files

NETWORK = "efficientnet-lite0"
# Figure of a report, title, whether more is better, and the corresponding column of the papers.
FIGURES = (
    (f"frechet_{NETWORK}", f"Fréchet ({NETWORK})", False, "FID"),
    ("delta_colorfulness", "ΔCF", False, "ΔCF"),
    ("psnr", "PSNR", True, "PSNR"),
    ("ssim", "SSIM", True, "SSIM"),
)
STAGE_SHARES = {"stage1": 20, "stage2": 50, "stage3": 10}  # SeAda's 80 K steps


@dataclass(frozen=True)
class Row:
    """One row of a table.

    name: as printed. paper: the paper's figures, by `FIGURES`' last entry. stages: those trained after base and
    controller. sizes, recipe: arguments of the training command, for all stages and for stage I. control: arguments
    that change the controller itself. steering: options of the Colorizer. make: from options, a model that replaces
    the Colorizer.
    """

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    steering: dict = field(default_factory=dict)
    make: Callable | None = None

    @property
    def slug(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name.casefold())[:40].strip("-")


def _paper(fid: float, delta_cf: float, psnr: float) -> dict[str, float]:
    return {"FID": fid, "ΔCF": delta_cf, "PSNR": psnr}


_PLAIN = ("--adapter.no-query", "--adapter.no-mlp")  # e_r = e_g
_ALL = ("stage1", "stage2", "stage3")


def _tables() -> dict[str, list[Row]]:
    from . import ablation_models as models

    full = _paper(3.36, 1.23, 24.53)
    return {
        "seada-stages": [
            Row("stage II", _paper(6.93, 4.31, 22.67), ("stage2",), _PLAIN),
            Row("stage III", _paper(5.37, 3.42, 23.16), ("stage3",)),
            Row("stages I, II", _paper(3.72, 2.06, 23.74), ("stage1", "stage2")),
            Row("stages I, III", _paper(3.47, 2.11, 23.53), ("stage1", "stage3")),
            Row("stages I, II, III", full, _ALL),
        ],
        "seada-adapter": [
            Row("(a)", _paper(6.47, 3.77, 22.89), _ALL, _PLAIN, recipe=("--representation-weight", "0")),
            Row("(a) + (b)", _paper(4.12, 1.82, 24.26), _ALL, _PLAIN),
            Row("(a) + (b) + (c)", full, _ALL),
        ],
        "seada-control": [
            Row("no RCA, residuals on the skips", {}, _ALL, control=("--control.no-rca", "--control.additive")),
            Row("RCA, no residuals", {}, _ALL, control=("--control.rca", "--control.no-additive")),
            Row("RCA and residuals (mini's own)", {}, _ALL),
            Row(
                "RCA after every block alone, residuals",
                {},
                _ALL,
                control=("--control.rca", "--control.additive", "--control.sites", "blocks"),
            ),
        ],
        "seada-captioner": [
            Row("the model's own CoCa", {"FID": 3.36, "ΔCF": 1.23, "PSNR": 24.48}),
            Row("people's and labels' captions", make=models.true_captions),
            Row("a generic prompt", steering={"prompt": "colored photo"}),
            Row("no caption", steering={"prompt": ""}),
        ],
        "edn-decoder": [
            Row("plain decode", {"FID": 4.99, "PSNR": 23.4, "SSIM": 0.69}, make=models.plain_decode),
            Row("luminance put back", {}, make=models.luminance_put_back),
            Row("grey injection (Eq. 5)", {"FID": 1.88, "PSNR": 35.3, "SSIM": 0.97}, make=models.gray_injection),
            Row("the same through the codebook", {}, make=models.codebook),
            Row("token diffusion (Eq. 6)", {"FID": 1.83, "PSNR": 35.6, "SSIM": 0.99}, make=models.token_diffusion),
        ],
        "edn-sampling": [
            *(
                Row(f"temperature {t}, 10 token steps", steering={"token_steps": 10, "temperature": t})
                for t in (0.8, 1.0, 1.2)
            ),
            *(Row(f"guidance {g:g}", steering={"guidance": g}) for g in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)),
            *(Row(f"{n} steps", steering={"steps": n}) for n in (1, 2, 5, 10, 30, 50, 70)),
        ],
        "edn-ccd": [
            Row("no guidance"),
            *(
                Row(name, make=models.guided(terms))
                for name, terms in (
                    ("exposure", ("exposure",)),
                    ("colour constancy", ("constancy",)),
                    ("smoothness", ("smoothness",)),
                    ("luminance", ("luminance",)),
                    ("all four", ("exposure", "constancy", "smoothness", "luminance")),
                )
            ),
        ],
    }


TABLES = {  # title, and remarks on the papers' figures without a row
    "seada-stages": ("SeAda Table 2: training stages", ""),
    "seada-adapter": ("SeAda Table 3: parts of the semantic adapter", ""),
    "seada-control": (
        "SeAda Table 4: RCA",
        "SeAda, without RCA: FID 4.57, ΔCF 2.85, PSNR 23.31; with: 3.26, 1.23, 24.53. It says nothing of residuals; 12 "
        "sites at SD1.5's size are 6 at mini's, 4 are 3.",
    ),
    "seada-captioner": (
        "SeAda Table 5: captioners",
        "SeAda (FID, ΔCF, PSNR): ClipCap 3.47, 1.25, 23.95; BLIP 3.51, 1.66, 23.85; BLIP-2 3.45, 1.46, 24.53; CoCa "
        "3.36, 1.23, 24.48. There each has its own model; here all share one. --captioner adds others.",
    ),
    "edn-decoder": (
        "EDN Table 3: decoders, on true latents",
        "EDN's are KL-f8 (23.4 dB) and its luminance-aware decoders; `plain decode` is TAESD's here.",
    ),
    "edn-sampling": (
        "EDN Table 4: sampling",
        "EDN (PSNR, FID): temperature 0.8 to 1.2: 22.3 to 23.1, 28.2 to 33.7; guidance 3 to 7: 20.8 to 22.9, 28.2 to "
        "42.6; 30 to 70 steps: 20.1 to 23.1, 29.8 to 51.3. Guidance below 4 and above 6 is worse, 50 steps are best.",
    ),
    "edn-ccd": (
        "EDN: the terms of L_CCD (Eq. 4) in guidance",
        "EDN gives no figures per term. A decoder that puts luminance back leaves nothing to the term luminance; "
        "exposure takes the mean of R, G and B, which is not luminance, and so still moves colour.",
    ),
}


# --- training ---------------------------------------------------------------------------------------------------------


def steps_of(row: Row, total: int) -> dict[str, int]:
    """The stages' steps, `total` in all whatever the stages, in SeAda's proportions."""
    shares = {stage: STAGE_SHARES[stage] for stage in row.stages}
    steps = {stage: max(1, round(total * share / sum(shares.values()))) for stage, share in shares.items()}
    last = row.stages[-1]
    steps[last] += total - sum(steps.values())
    return steps


def train(row: Row, seed: int, options: argparse.Namespace) -> Path:
    """Trains a row, unless that is done already, and returns its folder of part files."""
    given = part_files.model_folder(options.model)
    first = options.out / "training" / f"base-{seed}"
    _bring(given, first / "parts", ("vq_decoder",))  # whose colours weigh the loss
    _stage("base", first, [], options.pretrain, seed, options)
    control = options.out / "training" / f"control-{_key(row.control)}-{seed}"
    _stage("control", control, [*row.control, "--init", str(first / "parts")], options.pretrain, seed, options)
    _bring(first / "parts", control / "parts", ("unet", "semantic_encoder", "vq_decoder"))
    # rows of different tables with the same training share a folder
    folder = options.out / "training" / f"{_key([*row.stages, *row.sizes, *row.control, *row.recipe])}-{seed}"
    parts = folder / "parts"
    if not (parts / "done").is_file():
        _bring(control / "parts", parts, ("unet", "semantic_encoder", "controlnet_rca", "vq_decoder"))
        if "stage1" not in row.stages and not (parts / "semantic_adapter.safetensors").is_file():
            _new_adapter(parts, row, options)
        for stage, steps in steps_of(row, options.steps).items():
            more = row.recipe if stage == "stage1" else ()
            _stage(stage, folder, [*row.control, *row.sizes, *more], steps, seed, options)
        if (given / "captioner.safetensors").is_file():
            _bring(given, parts, ("captioner",))
        (parts / "done").touch()
    return parts


def _key(arguments: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:6] if arguments else "plain"


def _arguments(options: argparse.Namespace) -> list[str]:
    shared = ["--preset", "mini", "--data", options.data, "--encoder", options.encoder]
    return [*shared, "--cache", str(options.out / "cache"), *options.training]


def _stage(stage: str, folder: Path, more: list[str], steps: int, seed: int, options: argparse.Namespace) -> None:
    from seada_core.train.__main__ import main as command

    if (folder / stage / f"checkpoint-{steps}").is_dir():
        return
    often = ["--checkpoint-every", str(max(1, min(200, steps)))]
    arguments = [*_arguments(options), *more, "--steps", str(steps), "--seed", str(seed), *often, "--resume"]
    print(f"training {folder.name}, {stage}: {steps} steps", file=sys.stderr)
    if command([stage, *arguments, "--out", str(folder)]):
        raise SystemExit(f"training {folder.name} stopped in {stage}; run the same command again to continue")


def _bring(source: Path, target: Path, parts: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for part in parts:
        file = f"{part}.safetensors"
        if not (target / file).is_file():
            shutil.copyfile(source / file, target / file)


def _new_adapter(parts: Path, row: Row, options: argparse.Namespace) -> None:
    """An untrained adapter, for rows without stage I: stages II and III train or use one that is there."""
    import torch

    from seada_core.train.__main__ import parse

    preset = parse(["stage2", *_arguments(options), *row.sizes, "--out", "unused"]).preset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = part_files.build("semantic_adapter", preset)
    part_files.save_part(parts / "semantic_adapter.safetensors", "semantic_adapter", preset, adapter)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(row: Row, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """A row's figures for one seed, from disk if they exist."""
    folder = options.out / "rows" / options.table / f"{row.slug}-{seed}"
    settings = {
        "row": {**dataclasses.asdict(dataclasses.replace(row, make=None)), "make": getattr(row.make, "__name__", None)},
        "pictures": options.pictures,
        "images": str(options.validation),
        "protocol": options.protocol,
        **({"steps": options.steps, "pretrain": options.pretrain, "training": options.training} if row.stages else {}),
        **({} if row.stages else {"model": options.model}),
    }
    settings = json.loads(json.dumps(settings))
    file = folder / "row.json"
    if file.is_file():
        found = json.loads(file.read_text("utf-8"))
        if found["settings"] != settings:
            raise SystemExit(f"error: {folder} was made with other settings; choose another --out, or delete it")
        return found["figures"]
    from seada_core.evaluate.options import EvaluateOptions, Networks
    from seada_core.evaluate.run import evaluate
    from seada_core.options import ColorizeOptions

    model = str(train(row, seed, options)) if row.stages else options.model
    colorizer = row.make(options) if row.make else None
    report = evaluate(
        EvaluateOptions(
            images=str(options.validation),
            out=folder,
            model=model,
            protocol=PROTOCOLS[options.protocol],
            limit=options.pictures,
            networks=Networks((NETWORK,), (), options.device),
            colorize=ColorizeOptions(**{"seed": seed, **row.steering}),
            batch=options.eval_batch,
            resume=(folder / "journal.jsonl").is_file(),
            made=f"python -m benchmarks.quality.ablations {options.table}",
        ),
        colorizer,
    )
    figures = report["methods"]["ours"]
    file.write_text(json.dumps({"settings": settings, "figures": figures}, indent=1), encoding="utf-8")
    return figures


def contradictions(rows: list[Row], results: dict[str, list[dict]]) -> list[str]:
    """Pairs of rows in the opposite order to the paper, and whether their difference exceeds that of the seeds."""
    lines = []
    for key, title, more, column in FIGURES:
        known = [row for row in rows if column in row.paper]
        for index, first in enumerate(known):
            for second in known[index + 1 :]:
                there = second.paper[column] - first.paper[column]
                a, b = ([v[key] for v in results[row.name]] for row in (first, second))
                here = statistics.fmean(b) - statistics.fmean(a)
                if there * here >= 0:
                    continue
                spread = math.hypot(*(statistics.stdev(v) if len(v) > 1 else 0.0 for v in (a, b)))
                verdict = "by more than the seeds differ" if abs(here) > spread and len(a) > 1 else "within the seeds"
                verdict = "one seed" if len(a) == 1 else verdict
                better = second if (here > 0) == more else first
                other = first if better is second else second
                lines.append(f"{title}: here `{better.name}` beats `{other.name}`, in the paper not ({verdict})")
    return lines


def table(name: str, rows: list[Row], results: dict[str, list[dict]], options: argparse.Namespace) -> str:
    """The table as Markdown, with the paper's figures and contradictions to them."""
    columns = sorted({column for row in rows for column in row.paper}, key=[f[3] for f in FIGURES].index)
    title, remark = TABLES[name]
    head = ["row", *(f"{f[1]} {'↑' if f[2] else '↓'}" for f in FIGURES), *(f"paper: {column}" for column in columns)]
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in rows:
        cells = [row.name]
        for key, *_ in FIGURES:
            values = [figures[key] for figures in results[row.name]]
            digits = 4 if key == "ssim" else 2
            cells.append(f"{statistics.fmean(values):.{digits}f}")
            if len(values) > 1:
                cells[-1] += f" ± {statistics.stdev(values):.{digits}f}"
        lines.append("| " + " | ".join([*cells, *(str(row.paper.get(column, "")) for column in columns)]) + " |")
    size = f"{options.pictures} pictures, {options.protocol}, {options.seeds} seeds"
    if rows[0].stages:
        size += f", {options.steps} steps a row after {options.pretrain} each of base and controller"
    lines += ["", f"{size}; mean ± standard deviation over seeds. {remark}".strip()]
    found = contradictions(rows, results)
    lines += ["", *(f"- {line}" for line in found)] if found else []
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("table", choices=TABLES)
    add("--validation", required=True, help="the pictures to evaluate: a folder or shards")
    add("--out", type=Path, required=True, help="folder for all models and measurements")
    add("--data", help="training shards (the tables that train)")
    add("--encoder", help="TAESD's encoder (the tables that train, and edn-decoder)")
    add("--decoder", help="TAESD's decoder (edn-decoder)")
    add("--model", default="mini", help='"mini" or a folder of part files: what is evaluated, or whose decoder is used')
    add("--steps", type=int, default=2000, help="steps of each row's stages together (default: 2000)")
    add("--pretrain", type=int, default=500, help="steps of base, and of the controller before them (default: 500)")
    add("--pictures", type=int, default=400, help="pictures evaluated (default: 400)")
    add("--seeds", type=int, default=3, help="seeds a row (default: 3)")
    add("--protocol", choices=PROTOCOLS, default="own")
    add(
        "--captioner",
        action="append",
        default=[],
        metavar="KIND=PATH",
        help="coca, blip, blip2 or clipcap, a file or folder",
    )
    add("--eval-batch", type=int, default=16)
    add("--device", default=None, help="for evaluating (default: cuda where there is one)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options, options.training = build_parser().parse_known_args(arguments)
    import torch

    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = _tables()[options.table]
    if options.table == "seada-captioner":
        from . import ablation_models as models

        rows += [Row(choice.partition("=")[0], make=models.captioned(choice)) for choice in options.captioner]
    wanted = ["data", "encoder"] if rows[0].stages else ["encoder", "decoder"] if options.table == "edn-decoder" else []
    missing = [f"--{name}" for name in wanted if not getattr(options, name)]
    if missing:
        print(f"error: {options.table} needs {' and '.join(missing)}", file=sys.stderr)
        return 2
    if options.training and not rows[0].stages:
        print(f"error: {options.table} trains nothing; unknown: {' '.join(options.training)}", file=sys.stderr)
        return 2
    results: dict[str, list[dict]] = {row.name: [] for row in rows}
    try:
        for seed in range(options.seeds):
            for row in rows:
                results[row.name].append(measure(row, seed, options))
                print(f"{row.name}, seed {seed}: PSNR {results[row.name][-1]['psnr']:.2f} dB", file=sys.stderr)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    text = table(options.table, rows, results, options)
    (options.out / f"{options.table}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
