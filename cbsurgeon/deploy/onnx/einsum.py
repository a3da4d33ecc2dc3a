"""Rewriting Einsum equations in lower-case letters, which every ONNX parser accepts."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any


def spell_in_lowercase(model: Any) -> int:
    """Rename the indices of Einsum nodes to ``a``, ``b``, ``c`` ... in the order they appear.

    ONNX allows upper-case letters, and some models use them (torchvision's MaxViT), but TensorRT's parser does not.

    Args:
        model: an ``onnx_ir`` model; edited in place.

    Returns:
        How many equations were rewritten.
    """
    from onnxscript import ir

    rewritten = 0
    for node in model.graph:
        if node.op_type != "Einsum":
            continue
        written = node.attributes["equation"].as_string()
        spelled = lowercase(written)
        if spelled != written:
            node.attributes["equation"] = ir.AttrString("equation", spelled)
            rewritten += 1
    return rewritten


def lowercase(equation: str) -> str:
    """Return an equation with its letters replaced in order of appearance; unchanged if there are more than 26.

    >>> lowercase("B H I D, B H J D -> B H I J")
    'abcd,abed->abce'
    """
    bare = equation.replace(" ", "")
    letters = list(dict.fromkeys(letter for letter in bare if letter.isalpha()))
    if bare == bare.lower() or len(letters) > len(ascii_lowercase):
        return equation
    names = dict(zip(letters, ascii_lowercase, strict=False))
    return "".join(names.get(letter, letter) for letter in bare)
