"""Exponential moving averages of the trained parameters: the weights that are validated and exported."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class Averages(EMAModel):
    """diffusers' averages, in float32, kept whole in checkpoints where FSDP shards the parameters (as DTensors).

    A decay of 0 keeps none: `step` and `with averaged(...)` then do nothing.
    """

    shadow_params: list[Tensor]

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        parameters = list(parameters) if decay else []
        super().__init__(parameters, decay=decay, use_ema_warmup=True, power=0.75)
        self.shadow_params = [average.float() for average in self.shadow_params]
        first = self.shadow_params[0] if self.shadow_params else None
        # in this order a CPU's averages are the same to the last bit as they have always been
        self.one_by_one = first is None or first.device.type == "cpu" or isinstance(first, DTensor)

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the averages towards the parameters: on a GPU all at once, where diffusers has three operations each."""
        parameters = list(parameters)
        if self.one_by_one:
            super().step(parameters)
            return
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, [p.float() for p in parameters], 1 - self.cur_decay_value)

    def state_dict(self) -> dict:
        """Whole tensors; to be called by all processes together."""
        state = super().state_dict()
        return {**state, "shadow_params": [_whole(average) for average in self.shadow_params]}

    def load_state_dict(self, state_dict: dict) -> None:
        averages = self.shadow_params
        if len(averages) != len(state_dict["shadow_params"]):
            raise ValueError(f"{len(state_dict['shadow_params'])} averages for {len(averages)} parameters")
        super().load_state_dict(state_dict)
        self.shadow_params = averages
        for average, value in zip(averages, state_dict["shadow_params"]):
            average.copy_(_like(average, value))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """A whole `value` on the device of `tensor`, and sharded like it."""
    if not isinstance(tensor, DTensor):
        return value.to(tensor.device)
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)


class averaged:
    """`with averaged(averages, parameters):` parameters and moving averages are swapped."""

    def __init__(self, averages: Averages, parameters: Iterable[nn.Parameter]):
        self.pairs = list(zip(averages.shadow_params, parameters))

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in self.pairs:  # in place, one by one: no second copy of the model
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()
