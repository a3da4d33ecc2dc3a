"""Counting a model with fvcore, as an independent check of the audit.

fvcore's handlers count matrix products, convolutions, einsum and norms. The handlers here count the rest, on the shapes
of the trace. This count shares neither the graph nor the code with :mod:`cbsurgeon.checks.cost.nodes`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from cbsurgeon.checks.cost.rules import words
from cbsurgeon.errors import UsageError, missing
from cbsurgeon.graph.capture.writing import copied
from cbsurgeon.models.model import Model
from cbsurgeon.operators import Operator

Handler = Callable[[list[Any], list[Any]], int]


@dataclass(frozen=True)
class TracedCount:
    """The counts of a traced model at batch 1.

    Attributes:
        own: traced operator → FLOPs by fvcore's handlers only; operators unknown to fvcore are missing.
        flops: traced operator → FLOPs as the paper counts them, with the handlers of this module added.
        inserted: FLOPs that the formulas of inserted operators count beyond their nodes.
        operations: all additions, multiplications and pointwise functions.
        uncounted: traced operator without a handler → number of calls.
    """

    own: Mapping[str, int]
    flops: Mapping[str, int]
    inserted: int
    operations: int
    uncounted: Mapping[str, int]


def count_traced(model: Model) -> TracedCount:
    """Count a model with fvcore, at batch 1.

    Raises:
        MissingPackage: fvcore is not installed.
        UsageError: the model has no module or no positional example inputs to trace it with (CB-COST-01).
    """
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        raise missing("fvcore", "cost", "the cross-check") from None
    if model.module is None or not model.example_inputs:
        raise UsageError(
            "fvcore needs a module and positional inputs",
            code="CB-COST-01",
            where=model.provenance.reference,
            why="it traces the module once on them",
            do="leave out --cross-check, or give a model that is a module",
        )
    inputs = tuple(value[:1] if isinstance(value, torch.Tensor) else value for value in model.example_inputs)
    results = []
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)  # its warnings are part of the result
    for handlers in ({}, _flop_handlers(), _operation_handlers()):
        analysis = FlopCountAnalysis(model.module, inputs).set_op_handle(**handlers)
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it would turn a whole layer into one node
        try:
            analysis.total()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
        results.append(analysis)
    own, flops, operations = results
    uncounted = Counter(flops.unsupported_ops()) | Counter(operations.unsupported_ops())
    return TracedCount(
        _by_operator(own),
        _by_operator(flops),
        _closed_forms(model.module, flops),
        int(operations.total()),
        dict(uncounted),
    )


def _by_operator(analysis: Any) -> dict[str, int]:
    return {name: int(value) for name, value in analysis.by_operator().items() if value}


def _closed_forms(module: nn.Module, analysis: Any) -> int:
    """Return the FLOPs that the formulas of inserted operators count beyond their nodes.

    Token counts come from shapes recorded while the module runs, independent of any captured graph. An operator without
    a formula is counted by its nodes.
    """
    extra, by_module = 0, analysis.by_module()
    for path, operator, shape in _operator_calls(module, analysis._inputs):
        tokens = prod(shape[axis] for axis in operator.token_axes)
        try:
            cost = operator.cost(tokens, shape[operator.channel_axis], **operator.options())
        except NotImplementedError:
            continue
        extra += cost.paper - int(by_module[path])
    return extra


def _operator_calls(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[str, Operator, tuple[int, ...]]]:
    operators = {path: part for path, part in module.named_modules() if isinstance(part, Operator)}
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [
        part.register_forward_hook(lambda _m, args, _o, path=path: seen.update({path: tuple(args[0].shape)}))
        for path, part in operators.items()
    ]
    try:
        with torch.no_grad():
            if operators:
                module(*copied(inputs, {})[0])
    finally:
        for hook in hooks:
            hook.remove()
    return [(path, operators[path], shape) for path, shape in seen.items()]


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a traced floating-point tensor; ``None`` for others, such as sizes, which are not counted."""
    if not value.isCompleteTensor() or not value.type().dtype().is_floating_point:
        return None
    return tuple(value.type().sizes())


def _numel(value: Any) -> int:
    shape = _shape(value)
    return 0 if shape is None else prod(shape)


def _per(on_input: int, on_output: int) -> Handler:
    return lambda inputs, outputs: on_input * _numel(inputs[0]) + on_output * _numel(outputs[0])


def _norm(weight: int, flops: bool, statistics: int = 5, bias: int | None = None) -> Handler:
    def handler(inputs: list[Any], outputs: list[Any]) -> int:
        size, affine = _numel(outputs[0]), _shape(inputs[weight]) is not None
        if flops:
            return size * affine
        return size * (statistics + affine + (bias is not None and _shape(inputs[bias]) is not None))

    return handler


def _batch_norm(flops: bool) -> Handler:
    def handler(inputs: list[Any], outputs: list[Any]) -> int:
        size, affine = _numel(outputs[0]), _shape(inputs[1]) is not None
        biased = _shape(inputs[2]) is not None
        if flops:
            return size * affine
        return size * (5 + affine + biased if inputs[5].toIValue() else 2)

    return handler


def _attention(flops: bool) -> Handler:
    def handler(inputs: list[Any], outputs: list[Any]) -> int:
        query, key, value = (_shape(item) or () for item in inputs[:3])
        *batch, length, width = query
        scores = prod(batch) * length * key[-2]
        macs = scores * width + scores * value[-1]
        return macs if flops else 2 * macs + scores * (7 if _shape(inputs[3]) is not None else 6)

    return handler


def _pool(axes: int, flops: bool) -> Handler:
    def handler(inputs: list[Any], outputs: list[Any]) -> int:
        window = [side.toIValue() for side in inputs[1].node().inputs()]
        return _numel(outputs[0]) * (1 if flops else prod(window) ** (axes if len(window) == 1 else 1))

    return handler


_SHAPE_WORDS = words(
    "ones_like zeros_like clone floor_divide_int unflatten reshape_as view_as expand_as repeat unfold pad roll "
    "reflection_pad2d upsample_nearest2d feature_dropout movedim tensor_split item alias where split tile mT"
)
_POINTWISE = words(
    "add sub rsub div gelu relu silu sigmoid tanh exp log sqrt rsqrt sin cos neg pow abs erf reciprocal hardswish "
    "hardsigmoid hardtanh clamp clamp_min clamp_max maximum minimum relu6 elu softplus mish"
)


def _named(handlers: Mapping[str, Handler | None]) -> dict[str, Handler | None]:
    """Return the handlers under the names in a trace: with the namespace, and also for the in-place form."""
    named = {f"aten::{name}": handler for name, handler in handlers.items()}
    return {**named, **{f"{name}_": handler for name, handler in named.items()}}


def _flop_handlers() -> dict[str, Handler | None]:
    once = _per(0, 1)
    return _named(
        {
            **dict.fromkeys([*_SHAPE_WORDS, *_POINTWISE], None),
            **dict.fromkeys(
                words("softmax log_softmax sum amax max var std linalg_vector_norm max_pool2d cumsum"),
                None,
            ),
            **dict.fromkeys(words("mul mean leaky_relu prelu glu addcmul lerp"), once),
            **{f"adaptive_avg_pool{n}d": once for n in (1, 2)},
            "avg_pool2d": _pool(2, True),
            "upsample_bilinear2d": _per(0, 4),
            "layer_norm": _norm(2, True),
            "group_norm": _norm(2, True),
            "batch_norm": _batch_norm(True),
            "scaled_dot_product_attention": _attention(True),
        }
    )


def _operation_handlers() -> dict[str, Handler | None]:
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS as own

    def twice(handler: Callable[[list[Any], list[Any]], Any]) -> Handler:
        def doubled(inputs: list[Any], outputs: list[Any]) -> int:
            counted = handler(inputs, outputs)
            return 2 * int(sum(counted.values()) if isinstance(counted, Counter) else counted)

        return doubled

    products = {name: twice(own[f"aten::{name}"]) for name in words("addmm bmm _convolution einsum matmul mm linear")}
    return _named(
        {
            **dict.fromkeys(_SHAPE_WORDS, None),
            **dict.fromkeys([*_POINTWISE, "mul", "leaky_relu", "prelu"], _per(0, 1)),
            **dict.fromkeys(["softmax", "log_softmax"], _per(0, 5)),
            **dict.fromkeys(words("sum amax max cumsum"), _per(1, 0)),
            **dict.fromkeys(["mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d"], _per(1, 1)),
            **dict.fromkeys(["glu", "addcmul"], _per(0, 2)),
            "lerp": _per(0, 3),
            "linalg_vector_norm": _per(2, 1),
            "var": _per(4, 1),
            "std": _per(4, 2),
            "avg_pool2d": _pool(2, False),
            "max_pool2d": _pool(2, False),
            "upsample_bilinear2d": _per(0, 7),
            "layer_norm": _norm(2, False, bias=3),
            "group_norm": _norm(2, False, bias=3),
            "batch_norm": _batch_norm(False),
            "scaled_dot_product_attention": _attention(False),
            **products,
        }
    )
