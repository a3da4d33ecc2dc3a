"""The valid values most like a misspelt one. Every message that suggests a spelling takes it from here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 3
"""How many similar values a message names where it names several."""

SIMILARITY = 0.5
"""``difflib`` ratio from which two words are alike: one wrong letter in a word of three gives 0.67."""

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
}
"""Names other programs use, and what they are called here; asked before spelling is compared."""


def nearest(word: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """The known names most like ``word``, best first.

    A name that differs in upper and lower case alone comes first, then what the word is called here
    (:data:`ALIASES`), then names spelt alike, then names that contain the word, shortest first.

    Args:
        word: what was given.
        known: the valid names.
        most: how many to return.

    Returns:
        At most ``most`` names; none where nothing is alike.
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
    """The name in lower case, without the dashes that all flags begin with."""
    return name.strip().lower().lstrip("-")


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """``did you mean X?`` with the most similar known name, or an empty text.

    Args:
        word: what was given.
        known: the valid names.
        prefix: what to write before the name, such as ``--layers`` and a space.
    """
    near = nearest(word, known, 1)
    return f"did you mean {prefix}{near[0]}?" if near else ""
