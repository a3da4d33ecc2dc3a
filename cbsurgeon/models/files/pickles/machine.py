"""A pickle machine that works on descriptions of values, so that nothing is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from cbsurgeon.models.files.pickles import names as pickle_names

HEAVIEST = 1 << 20
"""Largest number of elements that a tuple may expand to; shared parts count each time, because hashing visits them each
time."""


DEEPEST = 64
"""Deepest nesting of tuples."""


class Refused(Exception):
    """The pickle is not plain weights.

    Args:
        kind: ``object`` (it rebuilds or calls something), ``layout`` (a tensor that is not dense), ``limit``
            (it would need too much memory or time) or ``broken`` (it does not parse).
        why: one sentence.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind, self.why = kind, why


@dataclass(frozen=True, eq=False)
class Value:
    """The description of a value: its kind, its contents if they matter, and the cost of visiting it."""

    kind: str
    data: Any = None
    weight: int = 1
    depth: int = 0


@dataclass(frozen=True)
class Storage:
    """A storage that a pickle refers to: its key, and its size in elements and bytes."""

    key: str
    elements: int
    size: int


@dataclass
class Scan:
    """The result of a scan: what a pickle would build.

    Attributes:
        top: the value that it builds.
        storages: the storages by key.
        called: the globals that it calls or names, in order of appearance.
    """

    top: Value = field(default_factory=lambda: Value("nothing"))
    storages: dict[str, Storage] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)


class Machine:
    """A stack machine for pickle instructions whose values are descriptions."""

    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.found = Scan()

    def push(self, value: Value) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Value:
        """Remove and return the value on top of the stack."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("broken", "its pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Value:
        """Return the value on top of the stack without removing it."""
        value = self.pop()
        self.push(value)
        return value

    def since_mark(self) -> list[Value]:
        """Remove the last mark and all values above it; return the values."""
        if not self.marks:
            raise Refused("broken", "its pickle ends a list it never began")
        at = self.marks.pop()
        items, self.stack = self.stack[at:], self.stack[:at]
        return items

    def make_tuple(self, items: list[Value]) -> None:
        """Put a tuple on the stack, within the limits of weight and depth."""
        weight = 1 + sum(item.weight for item in items)
        depth = 1 + max((item.depth for item in items), default=0)
        if weight > HEAVIEST or depth > DEEPEST:
            raise Refused("limit", "it holds tuples that expand to more than any checkpoint needs")
        self.push(Value("tuple", tuple(items), weight, depth))

    def call(self, function: Value, arguments: Value) -> Value:
        """Return the description of the result of a call."""
        name = function.data if function.kind == "global" else ""
        if name not in pickle_names.CALLS or arguments.kind != "tuple":
            raise Refused("object", f"it calls {spelled(str(name)) or 'a value that is not a function'}")
        if name.startswith("torch._utils _rebuild_tensor"):
            _check_view(arguments.data)
            return Value("tensor")
        kinds = {"torch._utils _rebuild_parameter": "tensor", "collections OrderedDict": "dict", "torch Size": "size"}
        return Value(kinds.get(name, "object"), arguments.data)

    def storage(self, identity: Value) -> Value:
        """Return the description of a storage that the pickle names."""
        items: tuple[Value, ...] = identity.data if identity.kind == "tuple" else ()
        if len(items) not in (5, 6) or items[0].data not in ("storage", b"storage"):
            raise Refused("object", "it refers to an external object that is not a storage")
        kind, key, _, count = items[1:5]
        if len(items) == 6 and items[5].kind != "none":
            raise Refused("layout", "it uses storage views of a very old torch")
        width = pickle_names.STORAGES.get(kind.data) if kind.kind == "global" else None
        if width is None or count.kind != "int" or count.data < 0 or not isinstance(key.data, str | int):
            raise Refused("layout", f"it uses the storage type {spelled(str(kind.data))[:80]}, which is not read")
        made = Storage(str(key.data), count.data, count.data * width)
        known = self.found.storages.setdefault(made.key, made)
        if known.size != made.size:
            raise Refused("broken", f"it gives storage {made.key[:40]!r} two sizes")
        return Value("storage", made)


def _check_view(arguments: tuple[Value, ...]) -> None:
    """Check that a tensor's view is inside its storage and does not repeat it."""
    if len(arguments) < 4 or arguments[0].kind != "storage" or arguments[1].kind != "int":
        raise Refused("broken", "it rebuilds a tensor from something that is not a storage")
    held: Storage = arguments[0].data
    shape, stride = (_integers(each) for each in arguments[2:4])
    offset = arguments[1].data
    if shape is None or stride is None or len(shape) != len(stride) or offset < 0 or min([*shape, *stride, 0]) < 0:
        raise Refused("broken", "it rebuilds a tensor with a shape or stride that makes no sense")
    room = held.size // _width(arguments[6]) if len(arguments) > 6 else held.elements
    elements = math.prod(shape)
    last = offset + sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True))
    if elements and (last >= room or elements > max(room, 1024)):
        raise Refused("limit", f"it rebuilds a tensor of {elements} elements from a storage of {room}")


def _width(dtype: Value) -> int:
    """Bytes per element of the dtype argument of ``_rebuild_tensor_v3``; 1 if it is not a dtype."""
    _, _, name = str(dtype.data).partition(" ")
    return int(getattr(torch, name).itemsize) if dtype.kind == "global" and name in pickle_names.DTYPES else 1


def _integers(value: Value) -> list[int] | None:
    items = value.data
    if value.kind == "size":
        items = items[0].data if items and items[0].kind == "tuple" else ()
    elif value.kind != "tuple":
        return None
    if len(items) > 64 or any(item.kind != "int" for item in items):
        return None
    return [item.data for item in items]


def spelled(name: str) -> str:
    """Return a global in Python's notation, ``module.name``."""
    return name.replace(" ", ".")
