"""LoRA on the attention of the UNet's decoder (Hu et al. 2021): few weights to train and store, easy to remove.

`python -m seada_core.train.lora UNET LORA OUT` merges a LoRA file into a UNet's part file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..command_line import FAILED, FINE, Parser, number
from ..files.weight_headers import CheckpointError
from ..weights import part_files

if TYPE_CHECKING:
    from ..models.unet import UNet

TARGETS = r"up_blocks\..*\.(to_q|to_k|to_v|to_out\.0)"
PREFIX = "lora_unet_"


def add_lora(unet: UNet, rank: int, file: Path | None = None) -> None:
    """Put a LoRA of `rank` on the queries, keys, values and outputs of the decoder's attention, by peft; B is zero, so
    that nothing changes at first, or both matrices come from `file`. Only the LoRA is left trainable.

    Raises:
        CheckpointError: `file` holds a LoRA of another rank or of another UNet.
    """
    from peft import LoraConfig, inject_adapter_in_model  # only --lora needs them

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), unet)
    train_lora_alone(unet)
    if file is None:
        return
    found = load_file(file)
    wanted = {name: parameter for name, parameter in unet.named_parameters() if ".lora_" in name}
    for name, parameter in wanted.items():
        layer, _, matrix = name.removesuffix(".default.weight").rpartition(".")
        tensor = found.get(_kohya(layer) + {"lora_A": ".lora_down.weight", "lora_B": ".lora_up.weight"}[matrix])
        if tensor is None or tensor.shape != parameter.shape:
            raise CheckpointError(
                f"{file} is not a LoRA of rank {rank} of this UNet ({layer} does not fit): give the --lora it was "
                "trained with, or remove it to start a new one"
            )
        with torch.no_grad():
            parameter.copy_(tensor)


def train_lora_alone(unet: UNet) -> None:
    """Freeze all of a UNet except its LoRA, if it has one."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def _kohya(layer: str) -> str:
    return PREFIX + layer.replace(".", "_")


def lora_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The LoRA of a UNet's state dict under the names that ComfyUI, diffusers and others load (kohya's)."""
    tensors = {}
    for name, tensor in state.items():
        if name.endswith(".lora_A.default.weight"):
            layer = _kohya(name.removesuffix(".lora_A.default.weight"))
            tensors[f"{layer}.lora_down.weight"] = tensor.detach().float().contiguous().cpu()
            tensors[f"{layer}.alpha"] = torch.tensor(float(len(tensor)))
        elif name.endswith(".lora_B.default.weight"):
            layer = _kohya(name.removesuffix(".lora_B.default.weight"))
            tensors[f"{layer}.lora_up.weight"] = tensor.detach().float().contiguous().cpu()
    return tensors


def merge(tensors: dict[str, Tensor], lora: dict[str, Tensor], strength: float = 1.0) -> tuple[dict, list[str]]:
    """A UNet's tensors (diffusers' names) with a LoRA (kohya's names) added; and the LoRA's layers that match none.

    W + strength alpha / rank B A. Layers of other models, such as a text encoder's, are among the latter.
    """
    layers = {name.rpartition(".lora_down.")[0] for name in lora if ".lora_down." in name}
    result = dict(tensors)
    for name, tensor in tensors.items():
        layer = _kohya(name.removesuffix(".weight"))
        if not name.endswith(".weight") or layer not in layers:
            continue
        down, up = lora[f"{layer}.lora_down.weight"].float(), lora[f"{layer}.lora_up.weight"].float()
        alpha = float(lora.get(f"{layer}.alpha", len(down)))
        update = (up.flatten(1) @ down.flatten(1)).view(tensor.shape)
        result[name] = (tensor.float() + strength * alpha / len(down) * update).to(tensor.dtype)
        layers.discard(layer)
    return result, sorted(layers)


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed; bad usage exits with 2."""
    parser = Parser(prog="python -m seada_core.train.lora", description="Merge a LoRA into a UNet's part file.")
    parser.add_argument("unet", type=Path, help="a part file, unet.safetensors")
    parser.add_argument("lora", type=Path, help="a LoRA with kohya's names, such as OUT/lora/unet_lora.safetensors")
    parser.add_argument("out", type=Path, help="the new part file")
    parser.add_argument("--strength", type=number(float), default=1.0, help="factor on the LoRA (default: 1)")
    arguments = parser.parse_args(argv)
    try:
        unet, preset = part_files.load_part(arguments.unet, "unet")
        try:
            lora = load_file(arguments.lora)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{arguments.lora} is not a readable safetensors file: {error}") from None
        merged, left = merge(unet.state_dict(), lora, arguments.strength)
        if not lora or len(left) * 3 >= len(lora):
            raise CheckpointError(f"{arguments.lora} holds no LoRA of this UNet")
        unet.load_state_dict(merged)
        if left:
            print(f"not used, since this UNet has no such layers: {', '.join(left)}", file=sys.stderr)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        part_files.save_part(arguments.out, "unet", preset, unet)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return FINE


if __name__ == "__main__":
    sys.exit(main())
