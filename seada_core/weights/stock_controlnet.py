"""A stock ControlNet (Zhang et al. 2023) in the place of ControlNet-RCA, or as what its encoder starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..files import weight_headers
from ..files.weight_headers import CheckpointError
from ..models.controlnet_rca import ControlFeatures, ControlNetRCA
from ..models.unet import UNet
from ..presets import SD15, Preset, UNetConfig
from .locations import find, folder_files, read_json
from .stable_diffusion import unet_config
from .state_dicts import Report, Weights, as_they_are, controlnet_names, load, on_meta

if TYPE_CHECKING:
    from diffusers import ControlNetModel


def check_config(config: dict, source: Path) -> None:
    """Raises CheckpointError where a diffusers config.json is not that of a ControlNet for plain RGB pictures."""
    wanted = {
        "conditioning_channels": 3,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
    }
    for name, value in wanted.items():
        found = config.get(name, value)
        if (list(found) if isinstance(found, (list, tuple)) else found) != value:
            raise CheckpointError(f"{source} has {name} = {found!r}; expected a ControlNet with {value!r}")


def build_controlnet(unet: UNetConfig) -> ControlNetModel:
    """A random ControlNet for a UNet of these sizes."""
    from diffusers import ControlNetModel

    return ControlNetModel(
        in_channels=unet.in_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if attn else "DownBlock2D" for attn in unet.attention),
        block_out_channels=unet.channels,
        layers_per_block=unet.layers_per_block,
        attention_head_dim=unet.heads,
        cross_attention_dim=unet.context_dim,
        norm_num_groups=unet.groups,
    )


class StockControlNet(nn.Module):
    """diffusers' ControlNet with `ControlNetRCA`'s methods: it adds to the skips, and has no attention.

    Its embedder of eight convolutions takes the picture (B, 3, 8h, 8w) in [0, 1], grey for brightness and recolor.
    """

    def __init__(self, net: ControlNetModel):
        super().__init__()
        self.net = net

    def condense(self, condition: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """The picture itself: the ControlNet's embedder cannot be run separately."""
        return condition

    def encode(
        self, z_t: Tensor, timesteps: Tensor, context: Tensor, strength: float = 1.0, *, c_f: Tensor
    ) -> ControlFeatures:
        """See `ControlNetRCA.encode`; there are no maps to attend to."""
        down, middle = self.net(z_t, timesteps, context, c_f, strength, return_dict=False)
        return ControlFeatures(c_f, [], [*down, middle], strength)

    def attend(self, i: int, h: Tensor, features: ControlFeatures) -> Tensor:
        """`h` itself."""
        return h


@torch.no_grad()
def start_from(control: ControlNetRCA, stock: StockControlNet) -> list[str]:
    """Copies a stock ControlNet of the same UNet into a controller's conditional encoder and zero convolutions.

    c_f's columns of `conv_in` stay zero: at first the encoder computes what the stock one would for an all-zero
    condition, and the mapper has to learn to pass on the photo.

    Returns:
        what could not be copied, in words.
    Raises:
        CheckpointError: the two were made for UNets of different sizes.
    """
    encoder, net = control.encoder, stock.net
    pairs = [(encoder.time_embedding, net.time_embedding), (encoder.down_blocks, net.down_blocks)]
    pairs.append((encoder.mid_block, net.mid_block))
    notes = ["its embedder of eight convolutions: the mapper has other ones, and is trained from scratch"]
    if control.zero_convs is not None:
        pairs += zip(control.zero_convs, [*net.controlnet_down_blocks, net.controlnet_mid_block], strict=True)
    else:
        notes.append("its zero convolutions: this controller adds nothing to the skips (additive is off)")
    try:
        for ours, theirs in pairs:
            ours.load_state_dict(theirs.state_dict())
        weight = torch.zeros_like(encoder.conv_in.weight)
        weight[:, : net.conv_in.in_channels] = net.conv_in.weight
        encoder.conv_in.load_state_dict({"weight": weight, "bias": net.conv_in.bias})
    except RuntimeError as error:
        raise CheckpointError(
            f"the ControlNet was made for another UNet: {str(error).splitlines()[-1].strip()}"
        ) from None
    return notes


def controller_from(stock: StockControlNet, preset: Preset) -> tuple[ControlNetRCA, list[str]]:
    """A new controller of a preset's sizes that starts from a stock ControlNet; see `start_from`.

    Mapper and RCA are random (seed 0), and only the encoder's half of a UNet takes memory.
    """
    unet = on_meta(lambda: UNet(preset.unet))
    for module in (unet.conv_in, unet.time_embedding, unet.down_blocks, unet.mid_block):
        module.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        control = ControlNetRCA(unet, preset.control)
    return control, start_from(control, stock)


class StockWeights:
    """A stock ControlNet of Stable Diffusion 1.5 for grey photos, such as brightness or recolor, before it is read.

    Args:
        path: a diffusers folder, or a single file in original names (with or without `control_model`) or diffusers'.
        unet: of the base that it was made for.
    Raises:
        CheckpointError: it is something else, or was made for another UNet.
    """

    def __init__(self, path: Path | str, unet: UNetConfig = SD15.unet, download: bool = False):
        self.unet, self.path = unet, find(path, download)
        what = "a ControlNet of Stable Diffusion 1.5"
        if self.path.is_dir():
            described = read_json(self.path / "config.json")
            if described.get("_class_name", "ControlNetModel") != "ControlNetModel":
                raise CheckpointError(f"{self.path} holds a {described['_class_name']}, expected {what}")
            check_config(described, self.path)
            found = unet_config(described, self.path)
            if found != unet:
                raise CheckpointError(f"{self.path} was made for another UNet: {found}, expected {unet}")
            self._weights = Weights(folder_files(self.path), "controlnet", as_they_are, whole=True)
        else:
            header = weight_headers.read_header(self.path)
            weight_headers.expect(header, ("controlnet",), what)
            self._weights = Weights([header], "controlnet", controlnet_names(unet))

    def _build(self) -> nn.Module:
        return build_controlnet(self.unet)

    def report(self) -> Report:
        """How the weights fit, without reading them."""
        return self._weights.report("controlnet", on_meta(self._build))

    def load(self, strict: bool = True) -> tuple[StockControlNet, Report]:
        """The ControlNet in float32 and evaluation mode; see `load`."""
        net, report = load("controlnet", self._build, self._weights, strict)
        return StockControlNet(net), report
