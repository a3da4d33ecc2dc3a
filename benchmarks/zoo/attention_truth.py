"""Record the attentions of one run of an eager model, without a graph and without code of cbsurgeon.

An attention is a call of ``scaled_dot_product_attention`` or ``multi_head_attention_forward``; or a softmax of a
product of two computed tensors whose result is multiplied with a third tensor. The origin of each tensor is tracked
from function to function while the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.zoo.entry import Entry

PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum", "__matmul__", "__rmatmul__"}
PROJECTIONS = {"linear", "conv1d", "conv2d", "conv3d"}
MULTIPLIES = {"mul", "multiply", "__mul__", "__rmul__"}
CHANNELS = {"XCA", "CrossCovarianceAttn", "ChannelAttention", "ChannelAttentionV2"}
"""Classes of timm that weigh channels by channels: there is no map of queries by keys."""
SAMPLES = {"SpatialTransformerBlock"}
"""Classes of timm that weigh the samples of the batch: queries and keys have the shape [B, N], so the map is [B, B]."""
WHOLE = {"scaled_dot_product_attention", "multi_head_attention_forward"}


@dataclass
class Seen:
    """One softmax, or one whole attention.

    Attributes:
        path: the module that called it.
        keys: positions that are weighed.
        weighs: whether its result was used as attention weights.
    """

    path: str
    keys: int
    weighs: bool = False


@dataclass
class _Origin:
    """The origin of a tensor."""

    computed: bool = False
    scores: bool = False
    weights: list[Seen] = field(default_factory=list)


class Watch(TorchFunctionMode):
    """Records the functions that a model calls.

    Attributes:
        seen: every softmax and whole attention, in the order they ran.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self._origins = WeakIdKeyDictionary()
        self._paths = {id(part): path for path, part in model.named_modules()}
        self._stack: list[str] = [""]
        for tensor in _tensors(inputs):
            self._origins[tensor] = _Origin(computed=True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and record the origin of its result."""
        result = func(*args, **(kwargs or {}))
        outputs = _tensors(result)
        if not outputs:
            return result
        name = getattr(func, "__name__", "")
        inputs = _tensors((args, kwargs))
        origin = self._origin(name, inputs, outputs[0], args, kwargs or {})
        for tensor in outputs:
            self._origins[tensor] = origin
        return result

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Register hooks that record the running module."""
        enter = nn.modules.module.register_module_forward_pre_hook(
            lambda module, _: self._stack.append(self._paths.get(id(module), self._stack[-1]))
        )

        def left(*_: Any) -> None:  # what a hook returns replaces the module's output
            self._stack.pop()

        leave = nn.modules.module.register_module_forward_hook(left, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()

    def _of(self, tensor: Tensor) -> _Origin:
        found: _Origin = self._origins.get(tensor, _Origin())
        return found

    def _origin(self, name: str, inputs: list[Tensor], output: Tensor, args: Any, kwargs: Any) -> _Origin:
        held = [self._of(tensor) for tensor in inputs]
        computed = any(one.computed for one in held)
        if name in WHOLE:
            key = kwargs.get("key", args[1] if len(args) > 1 else None)
            self.seen.append(Seen(self._stack[-1], key.shape[-2 if name.startswith("scaled") else 0], True))
            return _Origin(computed=True)
        if name in PRODUCTS and len(inputs) > 1:
            return self._product(held)
        if name in MULTIPLIES and len(inputs) == 2 and output.numel() > max(tensor.numel() for tensor in inputs):
            return self._product(held)
        if name == "softmax":
            axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            if held[0].scores and isinstance(axis, int):
                self.seen.append(Seen(self._stack[-1], output.shape[axis]))
                return _Origin(computed=computed, weights=[self.seen[-1]])
            return _Origin(computed=computed)
        if name in PROJECTIONS:
            # Talking heads: a projection over the heads keeps the shape of a map.
            mixes = output.shape == inputs[0].shape and (held[0].scores or held[0].weights)
            return _Origin(True, held[0].scores, held[0].weights) if mixes else _Origin(computed=True)
        if name in ("layer_norm", "batch_norm", "group_norm", "rms_norm", "addmm"):
            return _Origin(computed=True)
        weights = list({id(seen): seen for one in held for seen in one.weights}.values())
        return _Origin(computed, any(one.scores for one in held), weights)

    def _product(self, held: list[_Origin]) -> _Origin:
        """Record a product: attention weights times values, or two computed tensors, whose product may be scores."""
        weighed = [seen for one in held for seen in one.weights]
        for seen in weighed:
            seen.weighs = True
        return _Origin(computed=True, scores=not weighed and all(one.computed for one in held))


def attentions(entry: Entry) -> list[Seen]:
    """Return the attentions of one run, in execution order."""
    module, args, kwargs = entry.build()
    watch = Watch(module, (args, kwargs))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its kernel computes a whole layer
    try:
        with torch.no_grad(), watch.modules(), watch:
            module(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return [
        seen
        for seen in watch.seen
        if seen.weighs and type(module.get_submodule(seen.path)).__name__ not in CHANNELS | SAMPLES
    ]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
