"""Tensors of one format in modules of another, name by name.

Whether they fit is known from their files' headers, before a tensor is read or a module has memory. diffusers' own
functions translate the names; every name that they leave behind is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..files.weight_headers import CheckpointError, Header
from ..presets import UNetConfig, VAEConfig

# a file's names to a module's; diffusers' converters map names that they do not find to None
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor | None]]
Module = TypeVar("Module", bound=nn.Module)

# what the names of a component start with in a single file
PREFIXES = {
    "unet": r"model\.diffusion_model\.",
    "text_encoder": r"cond_stage_model\.",
    "vae": r"(first_stage_model|vae)\.",
    "controlnet": r"control_model\.",
}
_IGNORED = (  # reason, pattern
    ("copies of the UNet by exponential averages", r"model_ema\."),
    ("constants of the noise schedule", r"(betas|alphas_cumprod|sqrt_|log_one_minus|posterior_|lvlb_weights|logvar)"),
    ("positions, which are computed", r".*position_ids$"),
    ("CLIP's projection, which no part uses", r".*(text_projection|logit_scale)(\.weight)?$"),
    ("of the VAE's training loss", r"(first_stage_model\.)?(loss\.|model_ema\.)"),
)


def _reason(name: str) -> str | None:
    """Why a name of a file is ignored; None where it should not be."""
    return next((reason for reason, pattern in _IGNORED if re.match(pattern, name)), None)


@dataclass
class Report:
    """Which tensors of a source went into a part, by name."""

    part: str
    source: str
    loaded: int = 0
    missing: list[str] = field(default_factory=list)  # names of the part
    unexpected: list[str] = field(default_factory=list)  # names of the source, as are those of `misshapen`
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)  # found, expected
    ignored: dict[str, int] = field(default_factory=dict)  # reason -> how many tensors
    notes: list[str] = field(default_factory=list)

    def leave_out(self, names: Iterable[str]) -> None:
        """Record names of the source that no module took, with the reason or as unexpected."""
        for name in sorted(names):
            reason = _reason(name)
            if reason is None:
                self.unexpected.append(name)
            else:
                self.ignored[reason] = self.ignored.get(reason, 0) + 1

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def fault(self) -> str:
        """What does not fit, in one line; empty where all does."""
        found = []
        if self.misshapen:
            name, (shape, expected) = next(iter(self.misshapen.items()))
            found.append(f"{len(self.misshapen)} misshapen ({name} is {list(shape)}, expected {list(expected)})")
        for what, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                found.append(f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
        return "; ".join(found)

    def require(self, strict: bool = True) -> Report:
        """Itself. Raises CheckpointError where it does not fit, unless not `strict`."""
        if strict and not self.fits:
            raise CheckpointError(f"{self.source} does not fit {self.part}: {self.fault()}")
        return self


class Weights:
    """The tensors of one component, in one or several safetensors files, of which only the headers have been read.

    Args:
        files: a single file, or the shards of one component.
        component: a key of `PREFIXES`.
        convert: a file's names to the module's; called with meta tensors as well as with real ones.
        whole: whether the files hold this component only; otherwise the names of other components are skipped.
    """

    def __init__(self, files: list[Header], component: str, convert: Convert, whole: bool = False):
        self.component, self.convert = component, convert
        self.source = str(files[0].path)
        own = re.compile(PREFIXES[component])
        prefixed = any(own.match(name) for header in files for name in header.shapes)
        self.places = {
            name: header.path
            for header in files
            for name in header.shapes
            if whole or (own.match(name) if prefixed else True)
        }
        self.shapes = {name: header.shapes[name] for header in files for name in header.shapes if name in self.places}

    def shadow(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors under the module's names, on the meta device; and module name to file name."""
        meta = {name: torch.empty(shape, device="meta") for name, shape in self.shapes.items()}
        names = {id(tensor): name for name, tensor in meta.items()}
        converted = {name: tensor for name, tensor in self.convert(meta).items() if tensor is not None}
        # a converter renames, or gives a view
        sources = {
            name: names[id(tensor if tensor._base is None else tensor._base)] for name, tensor in converted.items()
        }
        return converted, sources

    def report(self, part: str, module: nn.Module) -> Report:
        """How the tensors fit a module, which may be on the meta device."""
        converted, sources = self.shadow()
        expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        report = Report(part, self.source)
        for name, shape in expected.items():
            if name not in converted:
                report.missing.append(name)
            elif tuple(converted[name].shape) != shape:
                report.misshapen[sources[name]] = (self.shapes[sources[name]], shape)
            else:
                report.loaded += 1
        used = {sources[name] for name in converted if name in expected}
        report.leave_out(self.shapes.keys() - used)
        return report

    def tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """All tensors under the module's names, floating ones in `dtype`.

        Raises:
            CheckpointError: values that are not finite.
        """
        state: dict[str, Tensor] = {}
        for path in dict.fromkeys(self.places.values()):
            with safe_open(path, "pt") as file:
                state |= {name: file.get_tensor(name) for name, place in self.places.items() if place == path}
        result, converted = {}, dict(self.convert(state))
        del state
        for name in list(converted):
            tensor = converted.pop(name)  # each is freed once it is copied
            if tensor is None:
                continue
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CheckpointError(f"{self.source} is damaged: {name} has values that are not finite")
            # a copy: else the weights are the file itself
            result[name] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        return result


def on_meta(build: Callable[[], Module]) -> Module:
    """A module whose parameters are on the meta device; its buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return build()


def load(part: str, build: Callable[[], Module], weights: Weights, strict: bool = True) -> tuple[Module, Report]:
    """A module in evaluation mode with the weights, and how they fit.

    Not `strict`: what does not fit is skipped, and what is missing is random.

    Raises:
        CheckpointError: the weights do not fit, or are not finite.
    """
    module = on_meta(build)
    report = weights.report(part, module).require(strict)
    if not report.fits:
        module = build()  # real, for what is missing
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    tensors = {n: t for n, t in weights.tensors().items() if n in wanted and t.shape == wanted[n]}
    module.load_state_dict(tensors, strict=report.fits, assign=report.fits)
    return module.eval().requires_grad_(False), report


# --- names ------------------------------------------------------------------------------------------------------------


def as_they_are(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


def unet_names(config: UNetConfig) -> Convert:
    """From a single file's names to diffusers'."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    return lambda state: convert_ldm_unet_checkpoint(state, {"layers_per_block": config.layers_per_block})


def vae_names(config: VAEConfig) -> Convert:
    """Likewise, with or without the prefix `first_stage_model`."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    blocks = [None] * len(config.channels)
    return lambda state: convert_ldm_vae_checkpoint(state, {"down_block_types": blocks, "up_block_types": blocks})


def old_vae_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names in diffusers' VAE files from before 2023, whose attention layers have other names, to today's."""
    names = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    pattern = re.compile("|".join(map(re.escape, names)))
    return {pattern.sub(lambda match: names[match[0]], name): tensor for name, tensor in state.items()}


def text_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP text model's names to those of `SemanticEncoder`, whichever release of transformers named either."""
    pattern = re.compile(r"^(cond_stage_model\.)?(transformer\.)?(text_model\.)?")
    return {pattern.sub("model.", name): tensor for name, tensor in state.items()}


def controlnet_names(config: UNetConfig) -> Convert:
    """A stock ControlNet's names, original or diffusers', to diffusers'."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    return lambda state: convert_controlnet_checkpoint(state, {"layers_per_block": config.layers_per_block})
