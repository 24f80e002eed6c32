"""CUDA graphs without a compiler: a function of tensors is recorded once for each set of shapes, and then replayed.

One photo at a time keeps a GPU waiting for the CPU, which launches a thousand small operations; a replay is one launch.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOST_GRAPHS = 16  # of a function: sets of shapes that are kept, the ones used last
SMALL_UNET = 512  # the widths of a UNet's levels together, up to which one photo is bound by launches


class Recorded(NamedTuple):
    """A function's graph for one set of shapes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]  # where the graph reads
    outputs: Any  # where it writes
    copied: list[tuple[Tensor, int | None]]  # what `inputs` were copied from last, see `_state`


class Captured:
    """`function`, replayed as a CUDA graph from the third call with the same shapes on.

    The first call with new shapes runs as usual, the second records: a shape that is seen only once is not worth it. On
    other devices, and after a failure (one warning), every call runs as usual.

    Arguments may be nested tuples and lists of tensors; all that is not a tensor has to be hashable, and belongs to the
    key that shapes make. The function may use only these tensors and its modules' weights, must not wait for the
    device, and is called without gradients. Weights may change in place; where they are replaced or moved: `Graphs`. A
    tensor that was made in inference mode must not change in place before it is passed again. Results are copies.
    Threads take turns.
    """

    device = "cuda"
    lock = threading.RLock()  # of all: only one capture may be under way in a process

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.graphs: OrderedDict[Any, Recorded] = OrderedDict()
        self.calls: Counter[Any] = Counter()  # with each set of shapes
        self.due: dict[Any, int] = {}  # the call that records; later for a graph that had to make room for others
        self.failed = False
        self.pool: Any = None  # memory that all its graphs share: results are copied before another one is replayed
        self.stream: Any = None

    def __call__(self, *arguments: Any) -> Any:
        leaves = list(leaves_of(arguments))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        places = {x.device for x in tensors}
        if self.failed or torch.is_grad_enabled() or {place.type for place in places} != {self.device}:
            return self.function(*arguments)
        place = places.pop()
        with self.lock, torch.cuda.device(place if place.type == "cuda" else -1):
            found = self._find(arguments, tuple(_describe(leaf) for leaf in leaves))
            if found is not None:
                return self._replay(found, tensors)
        return self.function(*arguments)

    def _find(self, arguments: Any, key: Any) -> Recorded | None:
        """The graph for these shapes, recorded now if it is due."""
        if key in self.graphs:
            self.graphs.move_to_end(key)
            return self.graphs[key]
        self.calls[key] += 1
        if self.calls[key] < self.due.get(key, 2):
            return None
        self.due[key] = 8 * self.calls[key]
        try:
            self.graphs[key] = self._record(arguments)
        except RuntimeError as error:
            self.failed = True
            self.graphs.clear()
            name = getattr(self.function, "__name__", "a function")
            warnings.warn(f"no CUDA graph of {name}, so it runs slower: {str(error).splitlines()[0]}", stacklevel=4)
            return None
        if len(self.graphs) > MOST_GRAPHS:
            self.graphs.popitem(last=False)
        return self.graphs[key]

    @staticmethod
    def _replay(found: Recorded, tensors: list[Tensor]) -> Any:
        changed = [i for i, x in enumerate(tensors) if not _is_same(x, *found.copied[i])]
        if changed:
            torch._foreach_copy_([found.inputs[i] for i in changed], [tensors[i] for i in changed])
            for i in changed:
                found.copied[i] = _state(tensors[i])
        found.graph.replay()
        return each_tensor(found.outputs, torch.clone)

    def _record(self, arguments: Any) -> Recorded:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written to later
            copies = each_tensor(arguments, torch.clone)
            graph, self.stream = torch.cuda.CUDAGraph(), self.stream or torch.cuda.Stream()
            if not self.graphs:  # the memory goes with the last of the graphs
                self.pool = torch.cuda.graph_pool_handle()
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):  # libraries allocate what they need on their first call in a stream
                self.function(*copies)
            torch.cuda.current_stream().wait_stream(self.stream)
            # thread_local: what other threads do meanwhile, such as a server's, does not matter
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                outputs = self.function(*copies)
        inputs = [leaf for leaf in leaves_of(copies) if isinstance(leaf, Tensor)]
        return Recorded(graph, inputs, outputs, list(map(_state, inputs)))


def _state(x: Tensor) -> tuple[Tensor, int | None]:
    """A tensor, held so that no other one can take its place, and its version, which inference tensors do not have."""
    return x, None if x.is_inference() else x._version


def _is_same(x: Tensor, earlier: Tensor, version: int | None) -> bool:
    return x is earlier and (version is None or x._version == version)


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
        self.captured: dict[Any, tuple[list[int], Captured]] = {}

    def __call__(self, function: Callable[..., Any], *modules: nn.Module | None) -> Callable[..., Any]:
        """The compiled or captured function, or the function itself.

        modules: those whose weights it uses. If any of these is no longer where it was, its graphs are dropped; while
            some are on another device than graphs need, the function itself runs.
        """
        if function in self.compiled:
            return self.compiled[function]
        if not self.on:
            return function
        weights = list(_weights(module for module in modules if module is not None))
        if any(weight.device.type != self.kind.device for weight in weights):
            return function
        key, where = (function, *map(id, modules)), [weight.data_ptr() for weight in weights]
        if key not in self.captured or self.captured[key][0] != where:
            self.captured[key] = where, self.kind(function)
        return self.captured[key][1]

    def drop(self) -> None:
        """Forget all graphs, and with them the memory that they work in."""
        self.captured.clear()


def _weights(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        for layer in module.modules():
            for tensors in (layer._parameters, layer._buffers):
                yield from (tensor for tensor in tensors.values() if tensor is not None)
