"""Code that a probe node runs in the server: Stable Diffusion 1.5 at full size with random weights."""

SD15 = """
import torch, comfy.model_management, comfy.model_patcher, comfy.sd, comfy.sd1_clip, comfy.supported_models
from importlib import import_module
pack = type(a).__module__.rsplit(".nodes.", 1)[0]
bridge, presets, part_files = (
    import_module(pack + name) for name in (".nodes.bridge", ".seada_core.presets", ".seada_core.weights.part_files")
)
Control = import_module(pack + ".nodes.controlnet_rca").Control
torch.manual_seed(0)

def fill(module):  # ComfyUI does not initialise weights
    for name, parameter in module.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0
        torch.nn.init.normal_(parameter, std=scale) if scale else parameter.fill_(float(name.endswith("weight")))
    return module

sizes = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "use_spatial_transformer": True,
    "use_linear_in_transformer": False, "context_dim": 768, "adm_in_channels": None, "legacy": False,
}
config = comfy.supported_models.SD15(sizes)
config.set_inference_dtype(torch.float32, None)
cpu = torch.device("cpu")
model = comfy.model_patcher.ModelPatcher(fill(config.get_model({})), cpu, cpu)

class Target:
    params, clip, tokenizer = {}, comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer

clip = comfy.sd.CLIP(Target)
fill(clip.cond_stage_model)
with torch.inference_mode(False), torch.no_grad():
    control = part_files.build("controlnet_rca", presets.SD15).eval().requires_grad_(False)
    for rca in control.rca.values():
        torch.nn.init.normal_(rca.to_out.weight, std=0.02)
out = {"model": model, "clip": clip, "control": Control(bridge.patcher(control), presets.SD15.unet)}
"""
