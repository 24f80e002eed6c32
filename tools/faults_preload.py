"""Imports everything that the trainer needs, once, in the process from which `tools.faults` forks its runs."""

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
