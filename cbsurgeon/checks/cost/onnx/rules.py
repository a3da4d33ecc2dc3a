"""The table of counting rules for ONNX operators: which ATen rule counts each, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cbsurgeon.checks.cost.rules import NotCountable, Shape, words


@dataclass(frozen=True)
class FileNode:
    """Shapes and attributes of one node of a file.

    Attributes:
        inputs: shape of each floating-point operand; ``None`` for an omitted one or one of another type.
        attributes: name → value.
        output: shape of the first result.
    """

    inputs: Sequence[Shape | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    output: Shape = ()


Arguments = Callable[[FileNode], dict[str, Any]]


def _named(*names: str) -> Arguments:
    """Pass the operands under these argument names of the rule."""
    return lambda node: dict(zip(names, node.inputs, strict=False))


def _gemm(node: FileNode) -> dict[str, Any]:
    left = node.inputs[0] or ()
    return {"self": left[::-1] if node.attributes.get("transA") else left}


def _einsum(node: FileNode) -> dict[str, Any]:
    equation = node.attributes["equation"]
    return {"equation": equation.decode() if isinstance(equation, bytes) else equation, "tensors": list(node.inputs)}


def _pool(node: FileNode) -> dict[str, Any]:
    return {"kernel_size": list(node.attributes["kernel_shape"])}


def _attention(node: FileNode) -> dict[str, Any]:
    """Pass queries, keys and values as ``[batch, heads, tokens, width]``; with three axes, heads and width are one."""
    given = [*node.inputs, None, None, None]
    query, key, value, mask = given[:4]
    if query is None or key is None or value is None:
        raise NotCountable
    if len(query) == 3:
        heads, key_heads = (node.attributes.get(name) for name in ("q_num_heads", "kv_num_heads"))
        if not heads or not key_heads:
            raise NotCountable
        query = (query[0], heads, query[1], query[2] // heads)
        key, value = ((one[0], key_heads, one[1], one[2] // key_heads) for one in (key, value))
    return {"query": query, "key": key, "value": value, "attn_mask": mask}


_X = _named("self")
_AFFINE = _named("input", "weight", "bias")
_POINTWISE = (
    "Add:add Sub:sub Div:div Mul:mul Mod:remainder Pow:pow PRelu:prelu Max:maximum Min:minimum Abs:abs Acos:acos "
    "Asin:asin Atan:atan Ceil:ceil Celu:celu Clip:clamp Cos:cos Cosh:cosh Elu:elu Erf:erf Exp:exp Floor:floor "
    "Gelu:gelu HardSigmoid:hardsigmoid HardSwish:hardswish LeakyRelu:leaky_relu Log:log Mish:mish Neg:neg "
    "Reciprocal:reciprocal Relu:relu Round:round Selu:selu Sigmoid:sigmoid Sign:sign Sin:sin Sinh:sinh Swish:silu "
    "Softplus:softplus Softsign:softsign Sqrt:sqrt Tan:tan Tanh:tanh ThresholdedRelu:threshold Softmax:softmax "
    "LogSoftmax:log_softmax CumSum:cumsum Equal:eq Less:lt LessOrEqual:le Greater:gt GreaterOrEqual:ge"
)
_REDUCTIONS = (
    "ReduceMean:mean ReduceSum:sum ReduceProd:prod ReduceMax:amax ReduceMin:amin ReduceL2:linalg_vector_norm "
    "ReduceLogSumExp:logsumexp ArgMax:argmax ArgMin:argmin GlobalAveragePool:mean GlobalMaxPool:amax"
)


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split(":") for word in text.split())


RULES: dict[str, tuple[str, Arguments]] = {
    "MatMul": ("matmul", _X),
    "Gemm": ("mm", _gemm),
    "Conv": ("conv2d", _AFFINE),
    "ConvTranspose": ("conv_transpose2d", _AFFINE),
    "Einsum": ("einsum", _einsum),
    "Attention": ("scaled_dot_product_attention", _attention),
    "LayerNormalization": ("layer_norm", _AFFINE),
    "RMSNormalization": ("rms_norm", _AFFINE),
    "GroupNormalization": ("group_norm", _AFFINE),
    "InstanceNormalization": ("instance_norm", _AFFINE),
    "BatchNormalization": ("batch_norm", _AFFINE),
    "AveragePool": ("avg_pool2d", _pool),
    "MaxPool": ("max_pool2d", _pool),
    **{name: (rule, _X) for name, rule in (_pairs(_POINTWISE) | _pairs(_REDUCTIONS)).items()},
}
"""ONNX operator → the ATen operator whose rule counts it."""

MOVES = words(
    "Cast Concat Expand Gather GatherElements GatherND Pad ScatterElements ScatterND Slice SpaceToDepth DepthToSpace "
    "Split Tile Transpose Trilu Where ConstantOfShape Range OneHot EyeLike Not And Or Xor IsNaN IsInf"
)
"""Operators that only copy. ONNX has no views, so a transpose is a copy."""

FREE = words("Constant Dropout Flatten Identity Reshape Shape Size Squeeze Unsqueeze")
"""Operators that neither compute nor copy."""


def resized(node: FileNode) -> str | None:
    """Return the rule of a ``Resize``; ``None`` if it only copies."""
    mode = node.attributes.get("mode", b"nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    return {"nearest": None, "linear": "upsample_bilinear2d", "cubic": "upsample_bicubic2d"}[mode]
