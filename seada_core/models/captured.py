"""CUDA graphs without a compiler: a function of tensors is recorded once for each set of shapes, and then replayed.

One photo at a time keeps a GPU waiting for the CPU, which launches a thousand small operations; a replay is one launch.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOST_GRAPHS = 8  # of a function: sets of shapes that are kept, the ones used last
SMALL_UNET = 512  # the widths of a UNet's levels together, up to which one photo is bound by launches


class Recorded(NamedTuple):
    """A function's graph for one set of shapes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]  # where the graph reads
    outputs: Any  # where it writes
    copied: list[Tensor]  # what `inputs` were copied from last; held, so that no other tensor can take its place


class Captured:
    """`function`, replayed as a CUDA graph from the third call with the same shapes on.

    The first call with new shapes runs as usual, the second records: a shape that is seen only once is not worth it. On
    other devices, and after a failure (one warning), every call runs as usual.

    Arguments may be nested tuples and lists of tensors; all that is not a tensor has to be hashable, and belongs to the
    key that shapes make. The function may use only these tensors and its modules' weights, must not wait for the
    device, and is called without gradients. Weights may change in place; where they are replaced or moved, see
    `Graphs.forget_moved`. Tensors that are passed again must not have been changed in place. Results are copies.
    """

    device = "cuda"

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.graphs: OrderedDict[Any, Recorded | None] = OrderedDict()
        self.failed = False
        self.pool: Any = None  # memory that all its graphs share: results are copied before another one is replayed

    def __call__(self, *arguments: Any) -> Any:
        leaves = list(leaves_of(arguments))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if self.failed or torch.is_grad_enabled() or not all(x.device.type == self.device for x in tensors):
            return self.function(*arguments)
        key = tuple(_describe(leaf) for leaf in leaves)
        if key not in self.graphs:
            self.graphs[key] = None
            while len(self.graphs) > MOST_GRAPHS:
                self.graphs.popitem(last=False)
            return self.function(*arguments)
        self.graphs.move_to_end(key)
        found = self.graphs[key]
        if found is None:
            try:
                found = self.graphs[key] = self._record(arguments)
            except RuntimeError as error:
                self.failed = True
                self.graphs.clear()
                name = getattr(self.function, "__name__", "a function")
                warnings.warn(f"no CUDA graph of {name}, so it runs slower: {str(error).splitlines()[0]}", stacklevel=2)
                return self.function(*arguments)
        changed = [i for i, x in enumerate(tensors) if x is not found.copied[i]]
        if changed:
            torch._foreach_copy_([found.inputs[i] for i in changed], [tensors[i] for i in changed])
            for i in changed:
                found.copied[i] = tensors[i]
        found.graph.replay()
        return each_tensor(found.outputs, torch.clone)

    def _record(self, arguments: Any) -> Recorded:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written to later
            copies = each_tensor(arguments, torch.clone)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries allocate what they need on their first call in a stream
                self.function(*copies)
            torch.cuda.current_stream().wait_stream(stream)
            graph, self.pool = torch.cuda.CUDAGraph(), self.pool or torch.cuda.graph_pool_handle()
            # thread_local: what other threads do meanwhile, such as a server's, does not matter
            with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
                outputs = self.function(*copies)
        inputs = [leaf for leaf in leaves_of(copies) if isinstance(leaf, Tensor)]
        return Recorded(graph, inputs, outputs, list(inputs))


def leaves_of(nested: Any) -> Iterator[Any]:
    """What nested tuples and lists hold, in order, each preceded by its kind and length."""
    if isinstance(nested, (tuple, list)):
        yield type(nested), len(nested)
        for item in nested:
            yield from leaves_of(item)
    else:
        yield nested


def each_tensor(nested: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested tuples and lists with each tensor changed."""
    if isinstance(nested, (tuple, list)):
        items = [each_tensor(item, change) for item in nested]
        return type(nested)(*items) if hasattr(nested, "_fields") else type(nested)(items)
    return change(nested) if isinstance(nested, Tensor) else nested


def _describe(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device
    return id(leaf) if isinstance(leaf, nn.Module) else leaf


class Graphs:
    """Replaces a model's functions by compiled or captured ones.

    Args:
        on: whether functions that are not compiled are captured.
        kind: how they are captured.
    """

    def __init__(self, on: bool, kind: type[Captured] = Captured):
        self.on, self.kind = on, kind
        self.compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.captured: dict[Callable[..., Any], Captured] = {}
        self.addresses: list[int] = []

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The compiled or captured function, or the function itself."""
        if function in self.compiled:
            return self.compiled[function]
        if self.on and function not in self.captured:
            self.captured[function] = self.kind(function)
        return self.captured.get(function, function)

    def forget_moved(self, modules: Iterable[nn.Module]) -> None:
        """Drop all graphs if any of the modules' weights is no longer where it was at the last call."""
        if not self.on:
            return
        addresses = [
            tensor.data_ptr()
            for module in modules
            for layer in module.modules()
            for tensors in (layer._parameters, layer._buffers)
            for tensor in tensors.values()
            if tensor is not None
        ]
        if addresses != self.addresses:
            self.addresses = addresses
            self.captured.clear()
