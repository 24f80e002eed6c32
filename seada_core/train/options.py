"""Options of one run of the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..presets import MINI, MOST_STEPS, Preset, TrainConfig
from ..settings import setting
from .stages.registry import STAGES, StageEntry

ALL = "all"  # in place of a stage: those of the preset's recipe, in order


@dataclass(frozen=True)
class TrainOptions:
    """A run of one stage, or of all stages of the preset's recipe.

    Attributes:
        stage: a stage's name, or `ALL`.
        preset: the sizes of what is built, and the recipes.
        recipe: fields of `TrainConfig` in place of the stages' own.

    The other fields are described by their help texts.
    """

    stage: str
    data: str = setting(
        MISSING, "folder of pictures (captions in .txt files beside them or metadata.jsonl), or webdataset shards"
    )
    out: Path = setting(MISSING, "folder for runs, caches and part files (OUT/parts)")  # noqa: RUF009
    encoder: str | None = setting(
        None, "latent encoder: TAESD's encoder file or a diffusers VAE folder; needed until the latents are cached"
    )
    decoder: str | None = setting(None, "TAESD's decoder file, which a new codec starts from")
    validation: str | None = setting(None, "pictures for validation losses and previews, which are never trained on")
    init: Path | None = setting(None, "folder of part files to start from; those in OUT/parts come first")  # noqa: RUF009
    base: str | None = setting(
        None, "Stable Diffusion 1.5 to start from, after those: a diffusers folder, a .safetensors file or a hub name"
    )
    control: str | None = setting(
        None, "a stock ControlNet (brightness, recolor) of the same base, from which a new controller starts"
    )
    download: bool = setting(False, "download a hub name that is not in the local cache")
    cache: Path | None = setting(  # noqa: RUF009
        None, "folder of the cached pictures and latents; OUT/cache-RESOLUTION by default"
    )
    mirror: bool = setting(False, "cache the latents of the mirrored pictures too, and train on both")
    shares: int = setting(
        0, "folders that a new cache is split into, which all processes build together; 0: one per process", low=0
    )
    missing_captions: Literal["empty", "error"] = setting("empty", "what a picture without a caption gets")
    describe_colors: bool = setting(
        False, "write colour captions for pictures that have none, from the colours of their areas and labels"
    )
    film: float = setting(0.0, "share of the pictures that are also cached as an old film would show them", high=1)
    photos_on_device: bool = setting(
        False,
        "no cache: read the photos once, keep them on the training device, and crop, mirror, age (--film) and encode "
        "them there at every step; --resolution is their side, --crop that of what a step sees; one process",
    )
    workers: int = setting(1, "processes that decode pictures", low=0, high=1024)
    parts_dtype: Literal["float32", "float16", "bfloat16"] = setting(
        "float32", "how the part files of what was trained are stored; later stages start from these files"
    )
    resume: bool = setting(False, "continue from the newest checkpoint; with `all`, at the stage that was interrupted")
    preset: Preset = MINI
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> list[StageEntry]:
        """The stages to run, in order."""
        return [STAGES[name] for name in (self.preset.recipe if self.stage == ALL else (self.stage,))]

    @property
    def parts_folder(self) -> Path:
        """Where the run leaves its part files."""
        return self.out / "parts"

    @property
    def lora_folder(self) -> Path:
        """Where the run leaves a LoRA, and the UNet that it belongs to."""
        return self.out / "lora"

    def config(self, stage: StageEntry) -> TrainConfig:
        """A stage's recipe. With a time budget, the preset's number of steps does not limit the run."""
        limit = {"steps": MOST_STEPS} if self.recipe.get("minutes") else {}
        return dataclasses.replace(self.preset.training[stage.name], **{**limit, **self.recipe})

    def folders(self, stage: StageEntry) -> list[Path]:
        """Where a stage looks for part files, in order: with `--lora`, the UNet without the LoRA comes first."""
        lora = [self.lora_folder] if stage.uses_lora(self.config(stage)) else []
        return [*lora, self.parts_folder, *([self.init] if self.init else [])]
