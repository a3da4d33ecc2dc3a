"""The names that the pickle of a checkpoint may use: containers, and storages and dtypes of dense tensors."""

from __future__ import annotations

CALLS = {
    "collections OrderedDict",
    "collections Counter",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_parameter",
    "builtins set",
    "__builtin__ set",
    "argparse Namespace",
}
"""Functions and classes that a checkpoint may call, as ``module name``. timm saves an ``argparse.Namespace``."""
LAYOUTS = (
    "_rebuild_sparse",
    "_rebuild_qtensor",
    "_rebuild_nested",
    "_rebuild_wrapper",
    "_rebuild_device",
    "_rebuild_meta",
)
STORAGES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
    "torch UntypedStorage": 1,
}
DTYPES = frozenset(
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "complex64",
        "complex128",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "uint16",
        "uint32",
        "uint64",
    ]
)
