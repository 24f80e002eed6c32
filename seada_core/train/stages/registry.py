"""The stages of training: what each one needs, makes and trains, and how it is built.

A new stage is a module of this folder with a function `build`, an entry in `STAGES`, and a recipe in each preset's
`training`. Importing this is quick (no torch), so that the command line can list the stages.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, cast

if TYPE_CHECKING:
    from torch import nn

    from ...models.affinity import Affinity
    from ...models.captioners.coca import TinyCoCa
    from ...models.ccd import HintEncoder
    from ...models.controlnet_rca import ControlNetRCA
    from ...models.people import People
    from ...models.scenery import Scenery
    from ...models.semantic_adapter import SemanticAdapter, SemanticEncoder
    from ...models.token_diffusion import TokenDiffusion
    from ...models.unet import UNet
    from ...models.vq_decoder import VQDecoder
    from ...presets import Preset, TrainConfig
    from ..probe import ChromaProbe
    from .stage import Stage


class Parts(TypedDict, total=False):
    """Modules by part name: all that a stage needs and makes."""

    affinity: Affinity
    captioner: TinyCoCa
    controlnet_rca: ControlNetRCA
    hint_encoder: HintEncoder
    people: People
    scenery: Scenery
    semantic_adapter: SemanticAdapter
    semantic_encoder: SemanticEncoder
    token_diffusion: TokenDiffusion
    unet: UNet
    vq_decoder: VQDecoder


@dataclass(frozen=True)
class StageEntry:
    """One stage of training.

    Attributes:
        name: on the command line, in a preset's `training`, and of the stage's folder in OUT.
        module: the module of this folder whose `build(setup)` makes the `Stage` of a `StageSetup`.
        needs: parts that must exist before the stage runs.
        makes: parts that it creates where there are none yet.
        learns: parts that it trains.
        learns_with_unet: parts that it also trains with `train_unet`.
        diffusion: whether it computes the diffusion loss, which may need a chroma probe.
        judges_colors: whether it always needs that probe, whatever the recipe's weights.
        lora: whether `--lora` puts a LoRA on its UNet; these stages would train the UNet itself with `train_unet`.
        residuals_only: whether the controller acts through its residuals alone, where it has any; RCA is then bypassed.
        multiple: a process takes its pictures in multiples of this many.
    """

    name: str
    module: str
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()
    learns_with_unet: tuple[str, ...] = ()
    diffusion: bool = False
    judges_colors: bool = False
    lora: bool = False
    residuals_only: bool = False
    multiple: int = 1

    def trained(self, config: TrainConfig) -> tuple[str, ...]:
        """The parts that the stage trains with a recipe."""
        return self.learns + (self.learns_with_unet if config.train_unet else ())

    def needs_probe(self, config: TrainConfig) -> bool:
        """Whether a recipe weighs the diffusion loss by the colours that a latent shows."""
        return self.judges_colors or (self.diffusion and bool(config.chroma_weight or config.perceptual_weight))

    def learns_classifier(self, config: TrainConfig) -> bool:
        """Whether the stage trains the mapper's classifier with a recipe, so that its maps differ in every step."""
        return self.judges_colors and config.learn_classifier > 0

    def uses_lora(self, config: TrainConfig) -> bool:
        """Whether the stage trains a LoRA with a recipe."""
        return self.lora and config.lora > 0

    def build(
        self,
        parts: Parts | Mapping[str, nn.Module],
        preset: Preset,
        config: TrainConfig,
        probe: ChromaProbe | None = None,
    ) -> Stage:
        """The stage with these parts, see `StageSetup`; what it trains is set to learn, and the rest is frozen."""
        module = importlib.import_module(f".{self.module}", __package__)
        stage = module.build(StageSetup(self, cast(Parts, parts), preset, config, probe))
        stage.name, stage.multiple = self.name, self.multiple
        return stage


@dataclass(frozen=True)
class StageSetup:
    """What a stage is built from.

    Attributes:
        parts: all that the entry needs and makes.
        config: the stage's recipe.
        probe: predicts chroma from a latent; needed where `entry.needs_probe(config)`.
    """

    entry: StageEntry
    parts: Parts
    preset: Preset
    config: TrainConfig
    probe: ChromaProbe | None = None


_TEXT = ("semantic_encoder", "semantic_adapter")
_DENOISER = ("unet", "semantic_encoder", "controlnet_rca", "semantic_adapter")

STAGES: dict[str, StageEntry] = {
    entry.name: entry
    for entry in (
        StageEntry("captioner", "captioning", makes=("captioner",), learns=("captioner",)),
        StageEntry("codec", "codec", makes=("vq_decoder",), learns=("vq_decoder",), multiple=2),
        StageEntry(
            "base",
            "diffusion",
            makes=("unet", "semantic_encoder"),
            learns=("unet",),
            learns_with_unet=("semantic_encoder",),
            diffusion=True,
        ),
        StageEntry(
            "control",
            "diffusion",
            needs=("unet", "semantic_encoder"),
            makes=("controlnet_rca",),
            learns=("controlnet_rca",),
            learns_with_unet=("unet", "semantic_encoder"),
            diffusion=True,
            lora=True,
            residuals_only=True,
        ),
        StageEntry(
            "stage1",
            "adapter",
            needs=("unet", "semantic_encoder", "controlnet_rca"),
            makes=("semantic_adapter",),
            learns=_TEXT,
            diffusion=True,
            residuals_only=True,
        ),
        StageEntry(
            "stage2",
            "diffusion",
            needs=_DENOISER,
            learns=("controlnet_rca",),
            learns_with_unet=("unet",),
            diffusion=True,
            lora=True,
        ),
        StageEntry(
            "stage3",
            "diffusion",
            needs=_DENOISER,
            learns=("controlnet_rca", *_TEXT),
            learns_with_unet=("unet",),
            diffusion=True,
            lora=True,
        ),
        StageEntry(
            "decide",
            "decide",
            needs=_DENOISER,
            learns=("controlnet_rca", *_TEXT),
            learns_with_unet=("unet",),
            diffusion=True,
            judges_colors=True,
            lora=True,
        ),
        StageEntry("decoder", "decoder", needs=(*_DENOISER, "vq_decoder"), learns=("vq_decoder",), multiple=2),
        StageEntry("ccd", "ccd", needs=_DENOISER, makes=("hint_encoder",), learns=("hint_encoder",), diffusion=True),
        StageEntry(
            "affinity",
            "affinity",
            needs=(*_DENOISER, "vq_decoder"),
            makes=("affinity",),
            learns=("affinity",),
        ),
        StageEntry("people", "people", needs=("controlnet_rca",), makes=("people",), learns=("people",)),
        StageEntry("scenery", "scenery", needs=("controlnet_rca",), makes=("scenery",), learns=("scenery",)),
        StageEntry(
            "tokens",
            "tokens",
            needs=("vq_decoder", *_TEXT),
            makes=("token_diffusion",),
            learns=("token_diffusion",),
        ),
        StageEntry(
            "joint",
            "joint",
            needs=(*_DENOISER, "vq_decoder", "token_diffusion"),
            learns=("controlnet_rca", *_TEXT, "token_diffusion"),
            learns_with_unet=("unet",),
            diffusion=True,
            lora=True,
        ),
    )
}


def maker(part: str) -> StageEntry:
    """The stage that makes a part."""
    return next(entry for entry in STAGES.values() if part in entry.makes)
