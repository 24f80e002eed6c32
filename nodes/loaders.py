"""Loaders: a whole model as MODEL and SEADA, or a controller alone."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..seada_core.weights import part_files
from . import bridge, inputs, model_folders
from .controlnet_rca import Control
from .unet import load_unet


class SeAdaLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaLoadModel",
            display_name="SeAda Load Model",
            category="SeAda",
            description="Loads the embedded model, or your own part files from models/seada. MODEL works with "
            "KSampler, LoRAs and previews; SEADA holds the other parts.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=model_folders.models(),
                    default=model_folders.EMBEDDED,
                    tooltip="embedded: the model that comes with this pack. Otherwise a folder of part files in "
                    "models/seada.",
                ),
                io.Boolean.Input(
                    "graphs",
                    display_name="CUDA graphs",
                    default=False,
                    optional=True,
                    tooltip="On an NVIDIA GPU: record the model's work once for each size of photo, and replay it. "
                    "From the third photo of a size on, SeAda Colorize takes about a third of the time; recordings "
                    "take some memory. For MODEL, use ComfyUI's Torch Compile node.",
                    **inputs.ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output(
                    id="model",
                    display_name="MODEL",
                    tooltip="The UNet, for KSampler and the SeAda nodes that patch it.",
                ),
                bridge.Seada.Output(
                    id="seada",
                    display_name="SEADA",
                    tooltip="The text, control, hint and decoder parts, for the other SeAda nodes.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str, graphs: bool = False) -> str:
        return model_folders.fingerprint(model_name)

    @classmethod
    def execute(cls, model_name: str, graphs: bool = False) -> io.NodeOutput:
        bundle = bridge.bundle(model_name, graphs)
        if not bundle.has("unet"):
            return io.NodeOutput(
                ExecutionBlocker(
                    f"{bundle.folder} has no unet.safetensors, so there is no MODEL: connect a checkpoint's MODEL "
                    "instead"
                ),
                bundle,
            )
        return io.NodeOutput(load_unet(bundle.folder / "unet.safetensors"), bundle)


class SeAdaLoadControlNetRCA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeAdaLoadControlNetRCA",
            display_name="SeAda Load ControlNet-RCA",
            category="SeAda",
            description="Loads the controller with which SeAda Apply ControlNet-RCA shows the grey photo to a MODEL.",
            inputs=[
                io.Combo.Input(
                    "control_name",
                    options=model_folders.part_file_names(),
                    default=model_folders.EMBEDDED,
                    tooltip="embedded: the controller that comes with this pack. Otherwise a controlnet_rca part file "
                    "in models/seada, which must have been trained with the MODEL that you apply it to.",
                ),
            ],
            outputs=[bridge.SeadaControl.Output(id="control", display_name="SEADA_CONTROL", tooltip="The controller.")],
        )

    @classmethod
    def fingerprint_inputs(cls, control_name: str) -> int:
        return model_folders.part_file(control_name, "controlnet_rca").stat().st_mtime_ns

    @classmethod
    def execute(cls, control_name: str) -> io.NodeOutput:
        with torch.inference_mode(False):
            path = model_folders.part_file(control_name, "controlnet_rca")
            module, preset = part_files.load_part(path, "controlnet_rca")
            return io.NodeOutput(Control(bridge.patcher(module), preset.unet))
