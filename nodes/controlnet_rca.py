"""ControlNet-RCA on a MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from comfy_api.latest import io

from . import bridge, inputs, unet

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ..seada_core.presets import UNetConfig


class Control(NamedTuple):
    """SEADA_CONTROL: a ControlNetRCA under ComfyUI's management, and the UNet that it was made for."""

    patcher: ModelPatcher
    unet: UNetConfig


class SeAdaApplyControlNetRCA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaApplyControlNetRCA",
            display_name="SeAda Apply ControlNet-RCA",
            category="SeAda",
            description="Shows the grey photo to a MODEL while it samples, so that the colours follow the photo: a "
            "ControlNet with representation cross-attention.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the controller was trained with."),
                bridge.SeadaControl.Input("control", tooltip="The controller, from SeAda Load ControlNet-RCA."),
                inputs.photo_of_latents(),
                inputs.strength("How much the photo steers the MODEL. 1 is normal, 0 turns it off.", 10.0, 0.01),
                *inputs.start_and_end(),
            ],
            outputs=[io.Model.Output(id="patched", display_name="MODEL", tooltip="The MODEL, guided by the photo.")],
        )

    @classmethod
    def execute(cls, model, control: Control, image: Tensor, strength: float, start: float, end: float):
        pictures = bridge.gray(image)
        unet.check_unet(model, control.unet, "this ControlNet-RCA")
        if strength == 0:
            return io.NodeOutput(model)
        at_size = unet.sized(pictures)
        network = control.patcher.model.module
        last: list[Tensor] = []  # the last call's condition picture and its c_f

        def enter(x, timesteps, context, options):
            condition = unet.condition(at_size, x, options)
            same = last and (last[0].device, last[0].dtype) == (condition.device, condition.dtype)
            if not same or not torch.equal(last[0], condition):
                last[:] = condition, network.condense(condition.expand(-1, 3, -1, -1), tuple(x.shape[-2:]))
            features = network.encode(x, timesteps, context, strength=strength, c_f=last[1])
            return features.residuals, lambda i, h: network.attend(i, h, features)

        return io.NodeOutput(unet.wrap_unet(model, enter, [control.patcher], start, end))
