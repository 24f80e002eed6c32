"""Train a part of the model: `python -m seada_core.train STAGE --data SOURCE --out DIR`."""

import dataclasses
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from ..presets import PRESETS, Preset, TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from ..stable_diffusion import Base, StockWeights
    from .data import Cache
    from .stages import Stage

# stage -> (parts that must exist, parts that it makes where they do not)
STAGES = {
    "captioner": ((), ("captioner",)),
    "codec": ((), ("vq_decoder",)),
    "base": ((), ("unet", "semantic_encoder")),
    "control": (("unet", "semantic_encoder"), ("controlnet_rca",)),
    "stage1": (("unet", "semantic_encoder", "controlnet_rca"), ("semantic_adapter",)),
    "stage2": (("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter"), ()),
    "stage3": (("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter"), ()),
    "decoder": (("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter", "vq_decoder"), ()),
    "ccd": (("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter"), ("hint_encoder",)),
    "tokens": (("vq_decoder", "semantic_encoder", "semantic_adapter"), ("token_diffusion",)),
    "joint": (
        ("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter", "vq_decoder", "token_diffusion"),
        (),
    ),
}


def _parse(argv: list[str]):
    """The command line as a dataclass: own options, every field of the stage's recipe, every size of the preset."""
    import tyro

    preset = PRESETS["sd15" if "sd15" in argv else "mini"]
    hints = get_type_hints(TrainConfig)
    Recipe = make_dataclass("Recipe", [(name, hints[name] | None, field(default=None)) for name in hints], frozen=True)
    hints = {name: hint for name, hint in get_type_hints(Preset).items() if name not in ("name", "training")}
    Sizes = make_dataclass(
        "Sizes", [(name, hint, field(default=getattr(preset, name))) for name, hint in hints.items()], frozen=True
    )

    @dataclass(frozen=True)
    class Arguments:
        """Train one stage of the model, or with `all` every stage of the preset's recipe in order.

        Options such as --steps, --batch, --lr replace the preset's recipe; options with a dot, such as
        --unet.channels, replace its sizes.
        """

        stage: tyro.conf.Positional[Literal[(*STAGES, "all")]]
        data: str
        """A folder of pictures (captions in .txt files beside them or metadata.jsonl) or webdataset shards."""
        out: Path
        """Folder for runs, caches and part files (OUT/parts)."""
        encoder: str | None = None
        """Latent encoder: TAESD's encoder file or a diffusers VAE folder; needed until the latents are cached."""
        decoder: str | None = None
        """TAESD's decoder file, which a new codec starts from."""
        validation: str | None = None
        """Pictures that are never trained on, for validation losses and previews."""
        init: Path | None = None
        """Folder of part files to start from; those in OUT/parts come first."""
        base: str | None = None
        """Stable Diffusion 1.5 to start from, after those: a diffusers folder, a .safetensors file or a hub name."""
        control: str | None = None
        """A stock ControlNet (brightness, recolor) of the same base, from which a new controller starts."""
        download: bool = False
        """Fetch a hub name that is not in the local cache."""
        cache: Path | None = None
        """Folder of the cached pictures and latents; OUT/cache-RESOLUTION by default."""
        preset: Literal["mini", "sd15"] = "mini"
        """The sizes and recipes to start from."""
        mirror: bool = False
        """Cache the mirrored pictures' latents too, and train on both."""
        film: float = 0.0
        """Share of the pictures of which a view as an old film would have taken them is cached, too."""
        workers: int = 1
        """Processes that decode pictures."""
        resume: bool = False
        """Go on from the newest checkpoint; of `all`, from the stage that was broken off."""
        recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)
        sizes: Annotated[Sizes, tyro.conf.arg(name="")] = field(default_factory=Sizes)

    return tyro.cli(Arguments, args=argv, prog="python -m seada_core.train")


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed; bad usage exits with 2."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    from ..checkpoints import CheckpointError
    from .data import DataError
    from .loop import TrainingError

    try:
        for stage in STAGES if arguments.stage == "all" else [arguments.stage]:
            train(stage, arguments)
    except (CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train(name: str, arguments) -> None:
    """Cache what the stage needs, build its parts, train, and leave its part files in OUT/parts."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from .. import checkpoints
    from .loop import fit

    sizes = {f.name: getattr(arguments.sizes, f.name) for f in dataclasses.fields(arguments.sizes)}
    preset = dataclasses.replace(PRESETS[arguments.preset], **sizes)
    changes = {n: v for n, v in dataclasses.asdict(arguments.recipe).items() if v is not None}
    config = dataclasses.replace(preset.training[name], **changes)
    folder = arguments.out / name
    finished = folder / f"checkpoint-{config.steps}"
    if arguments.stage == "all" and arguments.resume and finished.is_dir():
        return

    folders = [arguments.out / "parts", *([arguments.init] if arguments.init else [])]
    base, control = _others(arguments, preset)
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as `Accelerator` will ask for it
    with state.local_main_process_first():  # one process of a machine fills the caches, the others read them
        cache = _cache(arguments, arguments.data, config.resolution, "cache")
        validation = None
        if arguments.validation:
            validation = _cache(arguments, arguments.validation, config.resolution, "validation")
        torch.manual_seed(config.seed)  # new parts start alike in every run and process
        parts = _parts(name, preset, cache, folders, base, control)
        cache, validation = (_recognized(c, parts, config) for c in (cache, validation))
        probe = None
        if (config.chroma_weight or config.perceptual_weight) and name not in (
            "captioner",
            "codec",
            "decoder",
            "tokens",
        ):
            from .probe import load_probe

            probe = load_probe(cache)
    stage = _stage(name, parts, preset, config, probe)
    if name == "codec" and arguments.decoder and not any((f / "vq_decoder.safetensors").is_file() for f in folders):
        from .codec import load_taesd

        load_taesd(parts["vq_decoder"].decoder, arguments.decoder)
    out = arguments.out / "parts"

    def export() -> None:
        out.mkdir(parents=True, exist_ok=True)
        for part, module in stage.parts().items():
            checkpoints.save_part(out / f"{part}.safetensors", part, preset, module)

    fit(stage, config, cache, folder, validation, arguments.resume, export, arguments.workers)


def _cache(arguments, source: str, resolution: int, kind: str) -> "Cache":
    from .data import Cache, DataError, build_cache, load_encoder

    folder = arguments.cache if kind == "cache" and arguments.cache else arguments.out / f"{kind}-{resolution}"
    if (folder / "cache.json").is_file():
        return Cache(folder)
    if arguments.encoder is None:
        raise DataError(f"{folder} holds no cached latents yet: give --encoder to make them")
    folder.parent.mkdir(parents=True, exist_ok=True)
    share = arguments.film if kind == "cache" else 0.0  # validation stays as it is
    return build_cache(source, folder, resolution, load_encoder(arguments.encoder), arguments.mirror, share)


def _recognized(cache: "Cache | None", parts: dict[str, "nn.Module"], config: TrainConfig) -> "Cache | None":
    """The cache with what the parts' classifier sees in its photos, where they have one and see whole pictures."""
    looking = any(parts[name].config.recognition for name in ("controlnet_rca", "captioner") if name in parts)
    if cache is None or cache.recognized or not looking or config.crop != config.resolution:
        return cache
    import torch

    from ..controlnet_rca import recognize
    from ..efficientnet import EfficientNetLite0
    from .data import cache_recognized

    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = EfficientNetLite0()
    classifier.load_package_weights()
    classifier.to(device, memory_format=torch.channels_last)

    def look(gray):
        with torch.autocast(device, torch.bfloat16):
            return recognize(classifier, gray.to(device, memory_format=torch.channels_last))

    return cache_recognized(cache, look)


def _others(arguments, preset: Preset) -> "tuple[Base | None, StockWeights | None]":
    """The weights of other makes that new parts start from, known to fit and not yet read.

    Raises:
        CheckpointError: they do not fit the preset.
    """
    from .. import stable_diffusion

    base = control = None
    if arguments.base is not None:
        base = stable_diffusion.Base(arguments.base, preset, download=arguments.download)
        stable_diffusion.require_same(base, preset)
        for part in ("unet", "semantic_encoder"):
            base.report(part).require()
    if arguments.control is not None:
        control = stable_diffusion.StockWeights(arguments.control, preset.unet, arguments.download)
        control.report().require()
    return base, control


def _parts(
    name: str,
    preset: Preset,
    cache: "Cache",
    folders: list[Path],
    base: "Base | None" = None,
    control: "StockWeights | None" = None,
) -> dict[str, "nn.Module"]:
    """The stage's parts: from the first folder that has their file, then from `base`, else new ones where the stage may
    make them; a new controller starts from `control` where that is given.

    Raises:
        CheckpointError: a part that an earlier stage makes is nowhere.
    """
    from .. import checkpoints
    from ..controlnet_rca import ControlNetRCA
    from ..tokenizer import Tokenizer

    needed, made = STAGES[name]
    parts: dict[str, nn.Module] = {}
    for part in (*needed, *made):
        file = next((f / f"{part}.safetensors" for f in folders if (f / f"{part}.safetensors").is_file()), None)
        if file is not None:
            parts[part] = checkpoints.load_part(file, part)[0].requires_grad_(True).train()
        elif base is not None and part in ("unet", "semantic_encoder"):
            parts[part] = base.load(part)[0].requires_grad_(True).train()
        elif part in needed:
            maker = next(stage for stage, (_, makes) in STAGES.items() if part in makes)
            raise checkpoints.CheckpointError(
                f"stage {name} needs {part}.safetensors, and there is none in {' or '.join(map(str, folders))}: "
                f"train stage {maker} first, or give --init{' or --base' if maker == 'base' else ''}"
            )
        elif part == "controlnet_rca":  # E_con starts as a copy of the UNet's encoder
            parts[part] = ControlNetRCA(parts["unet"], preset.control)
            if preset.control.recognition:
                parts[part].mapper.classifier.load_package_weights()
            if control is not None:
                from ..stock_controlnet import start_from

                for note in start_from(parts[part], control.load()[0]):
                    print(f"not taken from --control: {note}")
        else:
            tokenizer = None
            size = {"semantic_encoder": preset.text, "captioner": preset.captioner}.get(part)
            if size is not None and size.vocab_size < 49408:
                captions = [
                    text
                    for record in cache.records
                    for kind in ("captions", "color_captions")
                    for text in record.get(kind, ())
                ]
                tokenizer = Tokenizer.from_captions(captions, size.length, size.vocab_size)
            parts[part] = checkpoints.build(part, preset, tokenizer)
            if part == "captioner" and preset.captioner.recognition:
                parts[part].model.visual.classifier.load_package_weights()
    return parts


def _stage(name: str, parts: dict[str, "nn.Module"], preset: Preset, config: TrainConfig, probe=None) -> "Stage":
    if name == "captioner":
        from .captioning import CaptionerStage

        return CaptionerStage(parts["captioner"])
    if name == "codec":
        from .codec import CodecStage

        stage = CodecStage(preset.codec)
        stage.codec = parts["vq_decoder"]
        return stage
    if name == "decoder":
        from .codec import DecoderStage

        return DecoderStage(parts, preset, config)
    if name == "ccd":
        from .ccd import CCDStage

        return CCDStage(parts, preset, config, probe)
    if name == "tokens":
        from .tokens import TokensStage

        return TokensStage(parts, preset, config)
    if name == "joint":
        from .joint import JointStage

        return JointStage(parts, preset, config, probe)
    from .diffusion import DiffusionStage

    return DiffusionStage(name, parts, preset, config, probe)


if __name__ == "__main__":
    sys.exit(main())
