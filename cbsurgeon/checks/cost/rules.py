"""Counting rules: FLOPs and operations of each ATen operator.

A rule returns two numbers:

- *FLOPs*: multiply-accumulates as the paper and torchprofile count them. Matrix products and convolutions count one per
  multiply-accumulate; ``mul``, affine norms, means and average pools one per element of the result; bilinear resizing
  four; additions, divisions and activation functions none.
- *operations*: every addition, multiplication and pointwise function counts one. A matrix product counts two per
  multiply-accumulate (a bias is the first addition).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """Shapes and arguments of one operator call.

    Attributes:
        arguments: schema name → shape of a floating-point tensor (``None`` for an integer or boolean one), list of
            shapes, or the plain value.
        output: shape of the (first) result.
    """

    arguments: dict[str, Any]
    output: Shape

    def shape(self, *names: str) -> Shape:
        """Return the shape of the first of these arguments that was given."""
        return next(self.arguments[name] for name in names if self.arguments.get(name) is not None)

    def has(self, name: str) -> bool:
        """Return whether an optional argument was given."""
        return self.arguments.get(name) is not None


def words(text: str) -> frozenset[str]:
    """Return the set of names in a text separated by spaces."""
    return frozenset(text.split())


Rule = Callable[[Call], tuple[int, int]]


class NotCountable(Exception):
    """Raised for a call that its rule does not cover; the operator is listed as not counted."""


def per_element(flops: int, operations: int) -> Rule:
    """Return a rule with fixed counts per element of the result."""

    def rule(call: Call) -> tuple[int, int]:
        size = prod(call.output)
        return flops * size, operations * size

    return rule


def per_input(operations: int, *, flops_per_output: int = 0, operations_per_output: int = 0) -> Rule:
    """Return a rule for reductions: counts per element read and per element of the result."""

    def rule(call: Call) -> tuple[int, int]:
        size, result = prod(call.shape("self", "input")), prod(call.output)
        return flops_per_output * result, operations * size + operations_per_output * result

    return rule


def product(inner: Callable[[Call], int]) -> Rule:
    """Return a rule for matrix products: ``inner`` multiply-accumulates per element of the result."""

    def rule(call: Call) -> tuple[int, int]:
        macs = prod(call.output) * inner(call)
        return macs, 2 * macs

    return rule


def _last_of(*names: str) -> Callable[[Call], int]:
    return lambda call: call.shape(*names)[-1]


def _per_output_channel(call: Call) -> int:
    return prod(call.shape("weight")[1:])


def _transposed_convolution(call: Call) -> tuple[int, int]:
    macs = prod(call.shape("input", "self")) * prod(call.shape("weight")[1:])
    return macs, 2 * macs


def _convolution(call: Call) -> tuple[int, int]:
    return _transposed_convolution(call) if call.arguments.get("transposed") else product(_per_output_channel)(call)


def _einsum(call: Call) -> tuple[int, int]:
    """Count one product over all indices; with more than two operands the order matters, which is not countable."""
    equation, shapes = call.arguments["equation"].replace(" ", ""), call.arguments["tensors"]
    operands = equation.split("->")[0].split(",")
    if len(operands) > 2:
        raise NotCountable
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        before, _, after = letters.partition("...")
        left, right = shape[: len(before)], shape[len(shape) - len(after) :]
        middle = shape[len(before) : len(shape) - len(after)]
        named = [*zip(before, left, strict=True), *zip(after, right, strict=True)] if "..." in letters else None
        for letter, size in named if named is not None else zip(letters, shape, strict=True):
            sizes[letter] = size
        for position, size in enumerate(reversed(middle if named is not None else ())):
            sizes[f".{position}"] = max(size, sizes.get(f".{position}", 1))
    macs = prod(sizes.values())
    return macs, 2 * macs


SOFTMAX = 5
"""Per element: maximum, subtraction, exponential, sum, division."""

NORM = 5
"""Per element: sum, subtraction, square, sum, multiplication by the inverse deviation."""


def _attention(call: Call) -> tuple[int, int]:
    """Count both products, scaling and softmax of every score, and adding a mask; causal attention counts in full."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    scores = prod(query[:-1]) * key[-2]
    macs = scores * (query[-1] + value[-1])
    extra = 1 + SOFTMAX + (1 if call.has("attn_mask") else 0)
    return macs, 2 * macs + extra * scores


def normalisation(per_value: int) -> Rule:
    """Return a rule for norms: ``per_value`` per element, one multiplication for a weight, one addition for a bias."""

    def rule(call: Call) -> tuple[int, int]:
        size = prod(call.output)
        affine = call.has("weight")
        return size * affine, size * (per_value + affine + call.has("bias"))

    return rule


def _batch_norm(call: Call) -> tuple[int, int]:
    """Count one multiplication and one addition per element, and the statistics if they are computed (training)."""
    if call.arguments.get("training") or call.arguments.get("train"):
        return normalisation(NORM)(call)
    size = prod(call.output)
    return size * call.has("weight"), 2 * size


def pool(axes: int, flops: int) -> Rule:
    """Return a rule for pooling: one operation per element of the window (for averages, the division is the last)."""

    def rule(call: Call) -> tuple[int, int]:
        window: int | Sequence[int] = call.arguments["kernel_size"]
        sides = [window] if isinstance(window, int) else list(window)
        area = prod(sides) if len(sides) == axes else sides[0] ** axes
        size = prod(call.output)
        return flops * size, area * size

    return rule


_ADDITIONS = "add sub rsub div floor_divide remainder fmod"
_FUNCTIONS = (
    "abs acos asin atan atan2 ceil celu clamp clamp_max clamp_min cos cosh elu erf erfc exp exp2 expm1 floor frac "
    "gelu hardsigmoid hardswish hardtanh log log10 log1p log2 log_sigmoid maximum minimum mish neg pow "
    "reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin sinh softplus softsign sqrt square tan tanh "
    "threshold trunc eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or "
    "bitwise_not bitwise_xor __and__ __or__ isnan isinf cumsum cumprod"
)

RULES: dict[str, Rule] = {
    # products
    "linear": product(_last_of("input")),
    "matmul": product(_last_of("self")),
    "mm": product(_last_of("self")),
    "bmm": product(_last_of("self")),
    "mv": product(_last_of("self")),
    "dot": product(_last_of("self")),
    "addmm": product(_last_of("mat1")),
    "addmv": product(_last_of("mat")),
    "baddbmm": product(_last_of("batch1")),
    "einsum": _einsum,
    "convolution": _convolution,
    "_convolution": _convolution,
    **{f"conv{n}d": product(_per_output_channel) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed_convolution for n in (1, 2, 3)},
    "scaled_dot_product_attention": _attention,
    # one value of the result at a time
    "mul": per_element(1, 1),
    "multiply": per_element(1, 1),
    "addcmul": per_element(1, 2),
    "lerp": per_element(1, 3),
    "leaky_relu": per_element(1, 1),
    "prelu": per_element(1, 1),
    "glu": per_element(1, 2),
    **{name: per_element(0, 1) for name in words(f"{_ADDITIONS} {_FUNCTIONS}")},
    "softmax": per_element(0, SOFTMAX),
    "_softmax": per_element(0, SOFTMAX),
    "log_softmax": per_element(0, SOFTMAX),
    "_safe_softmax": per_element(0, SOFTMAX),
    "upsample_bilinear2d": per_element(4, 7),
    "upsample_bicubic2d": per_element(16, 31),
    # norms
    "layer_norm": normalisation(NORM),
    "native_layer_norm": normalisation(NORM),
    "group_norm": normalisation(NORM),
    "native_group_norm": normalisation(NORM),
    "instance_norm": normalisation(NORM),
    "rms_norm": normalisation(3),
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    # reductions
    "mean": per_input(1, flops_per_output=1, operations_per_output=1),
    **{f"adaptive_avg_pool{n}d": per_input(1, flops_per_output=1, operations_per_output=1) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": per_input(1) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": pool(n, 1) for n in (1, 2, 3)},
    **{f"max_pool{n}d": pool(n, 0) for n in (1, 2, 3)},
    "max_pool2d_with_indices": pool(2, 0),
    **{name: per_input(1) for name in words("sum prod amax amin max min argmax argmin any all")},
    "var": per_input(4, operations_per_output=1),
    "std": per_input(4, operations_per_output=2),
    "var_mean": per_input(4, operations_per_output=2),
    "linalg_vector_norm": per_input(2, operations_per_output=1),
    "norm": per_input(2, operations_per_output=1),
    "logsumexp": per_input(4, operations_per_output=1),
}
"""The rule of each operator that computes."""

MOVES = words(
    "cat concat concatenate stack hstack vstack clone copy pad constant_pad_nd reflection_pad1d reflection_pad2d "
    "replication_pad2d roll flip repeat repeat_interleave tile index index_select gather take embedding where "
    "masked_fill masked_scatter index_put index_add scatter slice_scatter select_scatter fill pixel_shuffle "
    "pixel_unshuffle channel_shuffle im2col col2im tril triu upsample_nearest2d upsample_nearest1d unfold_copy "
    "_to_copy one_hot bucketize zeros ones full empty arange eye linspace zeros_like ones_like full_like "
    "empty_like new_zeros new_ones new_full new_empty scalar_tensor empty_strided meshgrid"
)
"""Operators that only copy: they cost bytes but no arithmetic."""

GATHERS = words("index index_select gather take embedding")
"""Operators in ``MOVES`` that read only as many values of their first operand as they write."""

VIEWS = words(
    "view view_as permute transpose t numpy_T mT movedim expand expand_as broadcast_to unsqueeze squeeze "
    "select slice narrow split split_with_sizes tensor_split chunk unbind unflatten as_strided alias detach unfold "
    "diagonal lift_fresh_copy real imag _unsafe_view _assert_tensor_metadata _assert_async _assert_scalar "
    "sym_constrain_range sym_constrain_range_for_size sym_size sym_stride sym_numel item _local_scalar_dense "
    "set_grad_enabled _set_grad_enabled"
)
"""Operators that neither compute nor copy."""

MAYBE_COPIES = words("reshape reshape_as flatten contiguous to type_as float half bfloat16 double")
"""Operators that return a view if layout and type allow it, and else copy."""

_PRODUCTS = words(
    "linear matmul mm bmm addmm baddbmm einsum conv1d conv2d conv3d convolution scaled_dot_product_attention"
)
_REDUCTIONS = words("layer_norm group_norm rms_norm softmax mean adaptive_avg_pool2d")

KERNELS = _PRODUCTS | _REDUCTIONS
"""Operators that are separate kernels even if pointwise operators are fused: products, norms and reductions."""
