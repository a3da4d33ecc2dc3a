"""Names of the leaves of nested values: keys, attributes or numbers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

Path = tuple[Any, ...]
"""Keys from a nested value to one of its leaves."""


def leaves_with_paths(value: Any, before: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of a nested value with their paths, in the order of ``tree_leaves``.

    A class may be registered without a function for its keys, as the outputs of diffusers are. The keys of such a
    mapping are its own, and those of another value are numbers.
    """
    for path, leaf in pytree.tree_flatten_with_path(value, is_leaf=_has_no_keys)[0]:
        if not _has_no_keys(leaf):
            yield (*before, *path), leaf
            continue
        children = pytree.SUPPORTED_NODES[type(leaf)].flatten_fn(leaf)[0]
        keyed = isinstance(leaf, Mapping) and len(leaf) == len(children)
        keys: Iterable[Any] = leaf if keyed else range(len(children))
        for key, child in zip(keys, children, strict=True):
            step: Any = pytree.MappingKey(key) if keyed else pytree.SequenceKey(key)
            yield from leaves_with_paths(child, (*before, *path, step))


def _has_no_keys(value: Any) -> bool:
    known = pytree.SUPPORTED_NODES.get(type(value))
    return known is not None and known.flatten_with_keys_fn is None


def output_names(outputs: Any) -> tuple[str, ...]:
    """Return names of the flat tensor outputs: keys and attributes if the model's output has them, else numbers."""
    names: list[str] = []
    for path, leaf in leaves_with_paths(outputs):
        if not isinstance(leaf, Tensor):
            continue
        parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
        if not parts or parts[0].isdigit():
            parts.insert(0, "output")
        names.append(unused("_".join(parts), names))
    return tuple(names)


def unused(name: str, names: Collection[str]) -> str:
    """Return a name that is not among ``names``: the name itself, or with the first number that makes it unused."""
    numbered = (f"{name}_{number}" for number in itertools.count(len(names)))
    return name if name not in names else next(other for other in numbered if other not in names)
