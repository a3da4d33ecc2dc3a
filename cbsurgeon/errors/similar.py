"""Suggestions for a misspelt value: the valid values that are most similar to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 3
"""Default number of suggestions."""

SIMILARITY = 0.5
"""Smallest ``difflib`` ratio of two similar words; one wrong letter in a word of three gives 0.67."""

ALIASES = {
    "attention": ("msa",),
    "attn": ("msa",),
    "self-attention": ("msa",),
    "ffn": ("mlp",),
    "feedforward": ("mlp",),
    "half": ("float16",),
    "fp16": ("float16",),
    "f16": ("float16",),
    "bf16": ("bfloat16",),
    "fp32": ("float32",),
    "f32": ("float32",),
    "float": ("float32",),
    "fp64": ("float64",),
    "double": ("float64",),
    "start": ("front",),
    "middle": ("mid",),
    "last": ("end", "last:3"),
    "first": ("first:3",),
    "top": ("upper",),
    "bottom": ("lower",),
    "gpu": ("cuda",),
    "trt": ("tensorrt",),
    "ort": ("onnxruntime",),
    "onnx": ("onnxruntime",),
    "inductor": ("compile",),
    "torch.compile": ("compile",),
    "torch": ("eager",),
    "huggingface": ("hf",),
    "transformers": ("hf",),
    "add": ("insert",),
    "compare": ("verify",),
    "convert": ("export",),
    "deploy": ("ship",),
    "diff": ("verify",),
    "flops": ("audit",),
    "info": ("inspect",),
    "list": ("inspect",),
    "profile": ("bench",),
    "run": ("ship",),
    "show": ("inspect",),
    "train": ("sweep",),
}
"""Words that other programs use → the names used here. They are looked up before spellings are compared."""


def nearest(word: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """Return the known names most similar to ``word``, best first.

    Names that differ only in upper and lower case come first, then those of :data:`ALIASES`, then names with a similar
    spelling, then names that contain the word, shortest first.

    Args:
        word: what was given.
        known: the valid names.
        most: how many to return.

    Returns:
        At most ``most`` names; an empty list if none is similar.
    """
    names = sorted(set(known))
    wanted = _folded(word)
    folded = [name for name in names if _folded(name) == wanted]
    called = [name for name in ALIASES.get(wanted, ()) if name in names]
    lowered: dict[str, str] = {}
    for name in names:
        lowered.setdefault(_folded(name), name)
    close = [lowered[name] for name in difflib.get_close_matches(wanted, lowered, n=most, cutoff=SIMILARITY)]
    containing = sorted((name for name in names if len(wanted) > 1 and wanted in _folded(name)), key=len)
    return list(dict.fromkeys([*folded, *called, *close, *containing]))[:most]


def _folded(name: str) -> str:
    """The name in lower case and without leading dashes, which all flags have."""
    return name.strip().lower().lstrip("-")


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``did you mean X?`` with the most similar known name, or an empty text.

    Args:
        word: what was given.
        known: the valid names.
        prefix: what to write before the name, such as ``--layers`` and a space.
    """
    near = nearest(word, known, 1)
    return f"did you mean {prefix}{near[0]}?" if near else ""
