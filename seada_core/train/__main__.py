"""Train a part of the model: `python -m seada_core.train STAGE --data SOURCE --out DIR`."""

import argparse
import dataclasses
import gc
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_type_hints

from ..presets import PRESETS, Preset, TrainConfig
from ..weights import stock_controlnet

if TYPE_CHECKING:
    from torch import nn

    from ..weights.stable_diffusion import Base
    from ..weights.stock_controlnet import StockWeights
    from .data import Cache
    from .stages.stage import Stage

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

DIFFUSION_STAGES = ("base", "control", "stage1", "stage2", "stage3", "ccd", "joint")  # `DiffusionStage` and its heirs
LORA_STAGES = ("control", "stage2", "stage3", "joint")  # those that would otherwise train the UNet with `train_unet`


def _parse(argv: list[str]):
    """The command line as a dataclass: own options, every field of the stage's recipe, every size of the preset."""
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # the preset's values are the others' defaults
    first.add_argument("--preset", default="mini")
    preset = PRESETS.get(first.parse_known_args(argv)[0].preset, PRESETS["mini"])
    hints = get_type_hints(TrainConfig)
    Recipe = make_dataclass("Recipe", [(name, hints[name] | None, field(default=None)) for name in hints], frozen=True)
    own = ("name", "training", "recipe")
    hints = {name: hint for name, hint in get_type_hints(Preset).items() if name not in own}
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
        shares: int = 0
        """Folders that a new cache is spread over, which all processes build together; by default one a process."""
        missing_captions: Literal["empty", "error"] = "empty"
        """What a picture without a caption is: an empty caption, or an error."""
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
    from ..files.weight_headers import CheckpointError
    from .checks import TrainingError
    from .sources import DataError

    try:
        stages = PRESETS[arguments.preset].recipe if arguments.stage == "all" else [arguments.stage]
        for stage in stages:  # all of them, before the first one takes hours
            check(stage, arguments)
        for stage in stages:
            train(stage, arguments)
            gc.collect()  # hooks and modules refer to each other, and the next stage needs their memory
    except (CheckpointError, DataError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _recipe(name: str, arguments) -> tuple[Preset, TrainConfig]:
    """The preset with the sizes, and the stage's recipe with the options, that the command line gives."""
    sizes = {f.name: getattr(arguments.sizes, f.name) for f in dataclasses.fields(arguments.sizes)}
    preset = dataclasses.replace(PRESETS[arguments.preset], **sizes)
    changes = {n: v for n, v in dataclasses.asdict(arguments.recipe).items() if v is not None}
    return preset, dataclasses.replace(preset.training[name], **changes)


def _is_done(name: str, arguments, config: TrainConfig) -> bool:
    from .saving import is_finished

    return arguments.stage == "all" and arguments.resume and is_finished(arguments.out / name, config.steps)


def check(name: str, arguments) -> None:
    """Refuse what can be known to be wrong with a stage before anything is read or computed.

    Raises:
        TrainingError, CheckpointError
    """
    from . import exports
    from .checks import check_recipe, check_same_run, latest_checkpoint, process_state

    preset, config = _recipe(name, arguments)
    if _is_done(name, arguments, config):
        return
    state = process_state()
    check_recipe(config, state.num_processes, state.device.type, 2 if name in ("codec", "decoder") else 1)
    newest = latest_checkpoint(arguments.out / name)
    if newest and arguments.resume:
        check_same_run(newest, config, preset)
    _others(arguments, preset)
    for part in (part for parts in STAGES[name] for part in parts):
        file = exports.find(part, _folders(name, arguments, config))
        if file is not None:
            exports.check_sizes(file, part, preset)
    if arguments.stage == name and _needs_probe(name, config):
        _decoder_of_probe(name, _folders(name, arguments, config))


def train(name: str, arguments) -> None:
    """Cache what the stage needs, build its parts, train, and leave its part files in OUT/parts."""
    import torch

    from . import exports
    from .checks import process_state
    from .data import check_captions
    from .loop import fit

    preset, config = _recipe(name, arguments)
    folder = arguments.out / name
    if _is_done(name, arguments, config):
        return
    folders = _folders(name, arguments, config)
    state = process_state()
    cache = _cache(arguments, arguments.data, config.resolution, "cache", state)
    validation = None
    if arguments.validation:
        validation = _cache(arguments, arguments.validation, config.resolution, "validation", state)
    check_captions(cache, arguments.missing_captions, print if state.is_main_process else lambda _: None)
    torch.manual_seed(config.seed)  # new parts start alike in every run and process
    parts = _parts(name, preset, cache, folders, *_others(arguments, preset))
    cache, validation = (_recognized(c, parts, config, state) for c in (cache, validation))
    lora_folder = arguments.out / "lora"
    if config.lora and name in LORA_STAGES:
        from .lora import add_lora

        if state.is_main_process and not (lora_folder / "unet.safetensors").is_file():  # as it was without
            exports.leave(lora_folder, "unet", parts["unet"], preset, folders)
        state.wait_for_everyone()
        file = lora_folder / "unet_lora.safetensors"
        add_lora(parts["unet"], config.lora, file if file.is_file() else None)
    probe = None
    if _needs_probe(name, config):
        from ..weights.part_files import load_part
        from .probe import ChromaProbe

        probe = ChromaProbe(load_part(_decoder_of_probe(name, folders), "vq_decoder")[0])
        explained = probe.fit(cache)
        if state.is_main_process:
            print(f"chroma probe: explains {explained:.3f} of the latents' chroma")
    stage = _stage(name, parts, preset, config, probe)
    if name == "codec" and arguments.decoder and exports.find("vq_decoder", folders) is None:
        from .stages.codec import load_taesd

        load_taesd(parts["vq_decoder"].decoder, arguments.decoder)
    out = arguments.out / "parts"
    exported = {part: module for part, module in stage.parts().items() if exports.learns(module)}
    if state.is_main_process:
        for part, module in stage.parts().items():
            if part not in exported and not (out / f"{part}.safetensors").is_file():
                exports.leave(out, part, module, preset, folders)
    state.wait_for_everyone()
    if config.cache_text:
        from .texts import cache_texts, text_is_frozen, use_cached_texts

        if text_is_frozen(stage):
            with state.main_process_first():
                texts = cache_texts(parts["semantic_encoder"].to(state.device), (cache, validation), arguments.out)
            use_cached_texts(stage, texts)
    parts.clear()

    def export(tensors: dict[str, torch.Tensor] | None) -> None:
        for part, module in exported.items():
            exports.export(out, part, module, preset, tensors, stage, lora_folder)

    fit(stage, config, cache, folder, validation, arguments.resume, export, arguments.workers, preset)


def _needs_probe(name: str, config: TrainConfig) -> bool:
    return name in DIFFUSION_STAGES and bool(config.chroma_weight or config.perceptual_weight)


def _decoder_of_probe(name: str, folders: list[Path]) -> Path:
    """The file of the decoder that says which colour a latent shows.

    Raises:
        CheckpointError: there is none.
    """
    from ..files.weight_headers import CheckpointError
    from .exports import find

    file = find("vq_decoder", folders)
    if file is None:
        raise CheckpointError(
            f"stage {name} weighs its loss by the colours that vq_decoder.safetensors paints, and there is none in "
            f"{' or '.join(map(str, folders))}: train stage codec first, give --init, or --chroma-weight 0"
        )
    return file


def _folders(name: str, arguments, config: TrainConfig) -> list[Path]:
    """Where a stage looks for part files: a UNet that gets a LoRA is the one without it."""
    lora = [arguments.out / "lora"] if config.lora and name in LORA_STAGES else []
    return [*lora, arguments.out / "parts", *([arguments.init] if arguments.init else [])]


def _cache(arguments, source: str, resolution: int, kind: str, state) -> "Cache":
    """The cache of a source, built by all processes together where it is not there yet."""
    from .cache import build_shares, join_shares
    from .data import Cache, build_cache
    from .encoder import load_encoder
    from .sources import DataError

    folder = arguments.cache if kind == "cache" and arguments.cache else arguments.out / f"{kind}-{resolution}"
    if not (folder / "cache.json").is_file():
        if arguments.encoder is None:
            raise DataError(f"{folder} holds no cached latents yet: give --encoder to make them")
        rank, processes = state.process_index, state.num_processes
        shares = arguments.shares or processes
        film = arguments.film if kind == "cache" else 0.0  # validation stays as it is
        if shares > 1:
            build_shares(
                source, folder, resolution, lambda: load_encoder(arguments.encoder, state.device), arguments.mirror,
                film, shares, range(rank, shares, processes), missing_captions=arguments.missing_captions,
            )  # fmt: skip
        state.wait_for_everyone()
        if state.is_main_process and shares > 1:
            join_shares(folder, shares)
        elif state.is_main_process:
            folder.parent.mkdir(parents=True, exist_ok=True)
            encoder = load_encoder(arguments.encoder, state.device)
            build_cache(
                source, folder, resolution, encoder, arguments.mirror, film, missing_captions=arguments.missing_captions
            )
        state.wait_for_everyone()
        if not (folder / "cache.json").is_file():
            raise DataError(f"this machine does not see {folder}: --out and --cache must be shared by all machines")
    return Cache(folder)


def _recognized(cache: "Cache | None", parts: dict[str, "nn.Module"], config: TrainConfig, state) -> "Cache | None":
    """The cache with what the parts' classifier sees in its photos, where they have one and see whole pictures."""
    looking = any(parts[name].config.recognition for name in ("controlnet_rca", "captioner") if name in parts)
    if cache is None or cache.recognized or not looking or config.crop != config.resolution:
        return cache
    import torch

    from ..models.controlnet_rca import recognize
    from ..models.efficientnet import EfficientNetLite0
    from .data import Cache, cache_recognized

    device = state.device.type
    classifier = EfficientNetLite0()
    classifier.load_package_weights()
    classifier.to(state.device, memory_format=torch.channels_last)

    def look(gray):
        with torch.autocast(device, torch.bfloat16):
            return recognize(classifier, gray.to(state.device, memory_format=torch.channels_last))

    if cache.shares:
        cache_recognized(cache, look, mine=slice(state.process_index, None, state.num_processes))
    elif state.is_main_process:
        cache_recognized(cache, look)
    state.wait_for_everyone()
    return Cache(cache.folder)


def _others(arguments, preset: Preset) -> "tuple[Base | None, StockWeights | None]":
    """The weights of other makes that new parts start from, known to fit and not yet read.

    Raises:
        CheckpointError: they do not fit the preset.
    """
    from ..weights import stable_diffusion

    base = control = None
    if arguments.base is not None:
        base = stable_diffusion.Base(arguments.base, preset, download=arguments.download)
        stable_diffusion.require_same(base, preset)
        for part in ("unet", "semantic_encoder"):
            base.report(part).require()
    if arguments.control is not None:
        control = stock_controlnet.StockWeights(arguments.control, preset.unet, arguments.download)
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
    from ..models.controlnet_rca import ControlNetRCA
    from ..models.tokenizer import Tokenizer
    from ..weights import part_files
    from . import exports

    needed, made = STAGES[name]
    parts: dict[str, nn.Module] = {}
    for part in (*needed, *made):
        file = exports.find(part, folders)
        if file is not None:
            parts[part] = part_files.load_part(file, part)[0].requires_grad_(True).train()
        elif base is not None and part in ("unet", "semantic_encoder"):
            parts[part] = base.load(part)[0].requires_grad_(True).train()
        elif part in needed:
            maker = next(stage for stage, (_, makes) in STAGES.items() if part in makes)
            raise part_files.CheckpointError(
                f"stage {name} needs {part}.safetensors, and there is none in {' or '.join(map(str, folders))}: "
                f"train stage {maker} first, or give --init{' or --base' if maker == 'base' else ''}"
            )
        elif part == "controlnet_rca":  # E_con starts as a copy of the UNet's encoder
            parts[part] = ControlNetRCA(parts["unet"], preset.control)
            if preset.control.recognition:
                parts[part].mapper.classifier.load_package_weights()
            if control is not None:
                from ..weights.stock_controlnet import start_from

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
            parts[part] = part_files.build(part, preset, tokenizer)
            if part == "captioner" and preset.captioner.recognition:
                parts[part].model.visual.classifier.load_package_weights()
    return parts


def _stage(name: str, parts: dict[str, "nn.Module"], preset: Preset, config: TrainConfig, probe=None) -> "Stage":
    if name == "captioner":
        from .stages.captioning import CaptionerStage

        return CaptionerStage(parts["captioner"])
    if name == "codec":
        from .stages.codec import CodecStage

        stage = CodecStage(preset.codec)
        stage.codec = parts["vq_decoder"]
        return stage
    if name == "decoder":
        from .stages.codec import DecoderStage

        return DecoderStage(parts, preset, config)
    if name == "ccd":
        from .stages.ccd import CCDStage

        return CCDStage(parts, preset, config, probe)
    if name == "tokens":
        from .stages.tokens import TokensStage

        return TokensStage(parts, preset, config)
    if name == "joint":
        from .stages.joint import JointStage

        return JointStage(parts, preset, config, probe)
    from .stages.diffusion import DiffusionStage

    return DiffusionStage(name, parts, preset, config, probe)


if __name__ == "__main__":
    sys.exit(main())
