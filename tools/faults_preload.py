"""What a run of the trainer imports: loaded once in the process that `tools.faults` forks its runs from."""

import accelerate.checkpointing
import diffusers.models.unets.unet_2d_condition
import diffusers.training_utils
import open_clip
import torch._dynamo
import transformers.models.clip.modeling_clip

import seada_core.train.__main__
import seada_core.train.run
import seada_core.train.stages.diffusion

__all__ = ["accelerate", "diffusers", "open_clip", "seada_core", "torch", "transformers"]
