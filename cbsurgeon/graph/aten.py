"""The ATen operators of exported graphs, grouped by what they do: layout, norm, activation, reduction ..."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import Tensor, fx


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYOUT = _names("""
    view reshape _unsafe_view flatten unflatten view_as reshape_as permute transpose t numpy_T mT movedim
    unsqueeze squeeze expand expand_as contiguous clone alias detach lift_fresh_copy roll to _to_copy
    type_as float half bfloat16 double _assert_tensor_metadata
""")
"""Operators that change shape, type or device and compute nothing."""

CROP = _names("slice constant_pad_nd pad narrow select")
"""Operators that drop or pad positions."""

DROPOUT = _names("dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout native_dropout")

NORM = _names("layer_norm rms_norm group_norm batch_norm instance_norm native_layer_norm _fused_rms_norm")
"""Normalisations that are one node. Others are written out in arithmetic (``graph.branches.steps`` follows them)."""

NONLINEAR = _names("""
    gelu relu relu6 silu mish elu selu celu leaky_relu prelu rrelu hardswish hardsigmoid hardtanh sigmoid tanh softplus
    softsign log_sigmoid threshold erf exp pow square abs clamp clamp_min clamp_max maximum minimum glu hardshrink
    softshrink tanhshrink sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh sinc erfc erfinv exp2 expm1
    float_power fmax fmin heaviside hypot logaddexp logaddexp2 logit xlogy i0 igamma igammac digamma polygamma
    lgamma mvlgamma special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
    special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
    special_chebyshev_polynomial_w special_entr special_erfcx special_hermite_polynomial_h
    special_hermite_polynomial_he special_i0e special_i1 special_i1e special_laguerre_polynomial_l
    special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0 special_modified_bessel_i1
    special_modified_bessel_k0 special_modified_bessel_k1 special_ndtr special_ndtri special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w special_spherical_bessel_j0
    special_xlog1py special_zeta
""")
"""Pointwise non-linearities, and the operators that they are written out with."""

COMPARISON = _names("where gt ge lt le")

ELEMENTWISE = (
    NONLINEAR
    | COMPARISON
    | _names("""
    add sub rsub mul div neg reciprocal rsqrt sqrt log log1p addcmul addcdiv masked_fill lerp nan_to_num
    floor round sign eq ne logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not fill zeros_like
    ones_like masked_scatter cumsum softmax log_softmax _softmax flip sort scalar_tensor positive ceil trunc frac sgn
    signbit copysign fmod remainder log2 log10 ldexp nextafter angle conj_physical deg2rad rad2deg isfinite isinf isnan
    isneginf isposinf logical_xor bitwise_xor bitwise_left_shift bitwise_right_shift __lshift__ __rshift__ __xor__
    _conj_physical gcd lcm
""")
)
"""Operators whose output axes are the broadcast axes of their inputs (softmax, cumsum and sort keep them too)."""

FILLED = _names("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty")
"""Operators that use only the shape of their input."""

SUM = _names("add sub")
CONVOLUTION = _names("conv1d conv2d conv3d convolution")
POOL = _names("""
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa
""")
REDUCE = _names("mean sum amax amin max min var std var_mean std_mean linalg_vector_norm norm prod logsumexp")
MATMUL = _names("matmul bmm mm baddbmm einsum")
ATTENTION = _names("scaled_dot_product_attention softmax _softmax")
SAMPLED = _names("scaled_dot_product_attention grid_sampler grid_sampler_2d")
"""Operators that mix tokens by weights or positions that are computed from tokens."""

FOURIER = _names("""
    fft_rfft fft_irfft fft_rfft2 fft_irfft2 fft_rfftn fft_irfftn fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn
""")
SPLIT = _names("getitem split split_with_sizes chunk unbind tensor_split")


ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "linalg_matmul": "matmul",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "special_digamma": "digamma",
    "special_erf": "erf",
    "special_erfc": "erfc",
    "special_erfinv": "erfinv",
    "special_exp2": "exp2",
    "special_expit": "sigmoid",
    "special_expm1": "expm1",
    "special_gammainc": "igamma",
    "special_gammaincc": "igammac",
    "special_gammaln": "lgamma",
    "special_i0": "i0",
    "special_log1p": "log1p",
    "special_log_softmax": "log_softmax",
    "special_logit": "logit",
    "special_logsumexp": "logsumexp",
    "special_multigammaln": "mvlgamma",
    "special_polygamma": "polygamma",
    "special_psi": "digamma",
    "special_round": "round",
    "special_sinc": "sinc",
    "special_softmax": "softmax",
    "special_xlogy": "xlogy",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "true_divide": "div",
}
"""Other names of operators with the same arguments; an exported graph keeps the name that the code used."""


def name(node: fx.Node) -> str:
    """Return the plain operator name: ``add`` for ``add_.Tensor``, ``mul`` for ``multiply``; empty for other nodes."""
    return _plain(node.target) if node.op == "call_function" else ""


@functools.lru_cache(maxsize=4096)
def _plain(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        plain = target._schema.name.split("::")[1]
        plain = plain if plain.endswith("__") else plain.rstrip("_")
        return ALIASES.get(plain, plain)
    if target is operator.getitem:
        return "getitem"
    return getattr(target, "__name__", str(target))


def value(node: fx.Node) -> Tensor | None:
    """Return the node's fake tensor, or ``None`` if its value is something else (a size, a list)."""
    val = node.meta.get("val")
    return val if isinstance(val, Tensor) else None


def tensors(node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a node that are tensors or lists of tensors, in argument order."""
    sizes = (torch.SymInt, torch.SymFloat, int, float)
    return [source for source in node.all_input_nodes if not isinstance(source.meta.get("val"), sizes)]


def is_guard(node: fx.Node) -> bool:
    """Whether a node clamps to a two-sided range, which protects a number format and is not an activation."""
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    return name(node) == "clamp" and low is not None and high is not None and low != 0


def inner(node: fx.Node) -> fx.Graph | None:
    """Return the graph of a ``wrap_with_*`` region (autocast or gradient mode changed in forward()), else ``None``."""
    if not name(node).startswith("wrap_with"):
        return None
    for arg in node.args:
        if isinstance(arg, fx.Node) and arg.op == "get_attr":
            module = getattr(node.graph.owning_module, str(arg.target), None)
            if isinstance(module, fx.GraphModule):
                return module.graph
    return None


def is_opaque(node: fx.Node) -> bool:
    """Return whether a node calls code that the graph does not show: an operator that is not PyTorch's own, or a region
    that runs some number of times (``cond``, ``scan``, ``while_loop``)."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.namespace not in ("aten", "prims")
    return isinstance(node.target, torch._ops.HigherOrderOperator) and inner(node) is None


def path(node: fx.Node) -> str:
    """Path of the innermost module that a node came from, empty at the top level."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def argument(node: fx.Node, index: int, keyword: str, default: object = None) -> object:
    """Return an argument that may be positional or a keyword."""
    if len(node.args) > index:
        return node.args[index]
    return node.kwargs.get(keyword, default)


def draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers; dropout that is switched off does not."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    given = {argument.name: argument.default_value for argument in target._schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | dict(node.kwargs)
    switches = [given[name] for name in ("train", "training", "dropout_p", "dropout") if name in given]
    return all(switches)  # an operator without any switch always draws
