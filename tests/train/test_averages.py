"""Moving averages that change places with the weights."""

import torch

from seada_core.train.averages import Averages, averaged


def test_averages_swap_places_with_the_weights():
    parameters = [torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([2.0]))]
    averages = Averages(parameters, 0.9)
    with torch.no_grad():
        parameters[0].add_(10)
    averages.step(parameters)  # the first step takes the weights as they are
    with torch.no_grad():
        parameters[0].add_(10)
    with averaged(averages, parameters):
        assert [p.item() for p in parameters] == [11, 2]
    assert [p.item() for p in parameters] == [21, 2]
    none = Averages(parameters, 0)
    none.step(parameters)
    assert none.state_dict()["shadow_params"] == []
    with averaged(none, parameters):
        assert parameters[0].item() == 21
