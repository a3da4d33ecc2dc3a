"""Reads the *program* in a pickle without running it.

``torch.load(weights_only=True)`` limits what a pickle may call, not how much it may allocate or how long it may take:
a kilobyte can name a storage of a terabyte, a tuple whose hash takes a century, or a tensor whose view leaves its
storage. This scan walks the opcodes over descriptions of values, so that such a file is refused before torch sees it.
It allows less than torch does: plain containers, numbers, text, and dense tensors.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from cbsurgeon.models.files.pickles import names as pickle_names

LARGEST = 16 << 20
"""Bytes of pickle read at most; a state dict of ten thousand tensors needs about two million."""
MOST_OPERATIONS = 1_000_000
"""Operations followed at most; a tensor takes about 35. They take some seconds."""
HEAVIEST = 1 << 20
"""Most elements a tuple may expand to, shared parts counted each time (hashing visits them each time)."""
DEEPEST = 64
"""Deepest nesting of tuples."""


class Refused(Exception):
    """The pickle is more than plain weights.

    Args:
        kind: ``object`` (it rebuilds or calls something), ``layout`` (a tensor that is not dense), ``limit``
            (it would take too much memory or time) or ``broken`` (it does not parse).
        why: one sentence.
    """

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind, self.why = kind, why


@dataclass(frozen=True, eq=False)
class Value:
    """What is known about a value: its kind, its contents where they matter, and what it costs to visit."""

    kind: str
    data: Any = None
    weight: int = 1
    depth: int = 0


@dataclass(frozen=True)
class Storage:
    """A storage a pickle asks for: its key, and its size in elements and bytes."""

    key: str
    elements: int
    size: int


@dataclass
class Scan:
    """What a pickle would build.

    Attributes:
        top: the value it leaves.
        storages: by key.
        called: the globals it calls or names, in order of appearance.
    """

    top: Value = field(default_factory=lambda: Value("nothing"))
    storages: dict[str, Storage] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)


def scan(stream: io.BytesIO) -> Scan:
    """Walk one pickle, leaving the stream after it.

    The stream is in memory: a file would allocate whatever length an operation claims before it finds the end.

    Raises:
        Refused: it is not plain weights.
    """
    return _Machine().run(stream)


class _Machine:
    """A pickle machine whose values are descriptions."""

    def __init__(self) -> None:
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.found = Scan()

    def run(self, stream: io.BytesIO) -> Scan:
        start = stream.tell()
        try:
            for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
                if (position or 0) - start > LARGEST or count > MOST_OPERATIONS:
                    raise Refused(
                        "limit", f"its pickle is longer than {LARGEST >> 20} MiB or {MOST_OPERATIONS} operations"
                    )
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise Refused(
                        "object", f"it uses the pickle operation {opcode.name}, which plain weights do not need"
                    )
                step(self, argument)
            self.found.top = self.pop()
        except Refused:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise Refused("broken", f"its pickle does not parse: {str(error)[:120]}") from error
        return self.found

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("broken", "its pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Value:
        value = self.pop()
        self.push(value)
        return value

    def since_mark(self) -> list[Value]:
        if not self.marks:
            raise Refused("broken", "its pickle ends a list it never began")
        at = self.marks.pop()
        items, self.stack = self.stack[at:], self.stack[:at]
        return items

    def make_tuple(self, items: list[Value]) -> None:
        weight = 1 + sum(item.weight for item in items)
        depth = 1 + max((item.depth for item in items), default=0)
        if weight > HEAVIEST or depth > DEEPEST:
            raise Refused("limit", "it holds tuples that expand to more than any checkpoint needs")
        self.push(Value("tuple", tuple(items), weight, depth))

    def call(self, function: Value, arguments: Value) -> Value:
        name = function.data if function.kind == "global" else ""
        if name not in pickle_names.CALLS or arguments.kind != "tuple":
            raise Refused("object", f"it calls {_spelled(str(name)) or 'a value that is no function'}")
        if name.startswith("torch._utils _rebuild_tensor"):
            _check_view(arguments.data)
            return Value("tensor")
        kinds = {"torch._utils _rebuild_parameter": "tensor", "collections OrderedDict": "dict", "torch Size": "size"}
        return Value(kinds.get(name, "object"), arguments.data)

    def storage(self, identity: Value) -> Value:
        items: tuple[Value, ...] = identity.data if identity.kind == "tuple" else ()
        if len(items) not in (5, 6) or items[0].data not in ("storage", b"storage"):
            raise Refused("object", "it refers to something outside that is no storage")
        kind, key, _, count = items[1:5]
        if len(items) == 6 and items[5].kind != "none":
            raise Refused("layout", "it uses storage views of a very old torch")
        width = pickle_names.STORAGES.get(kind.data) if kind.kind == "global" else None
        if width is None or count.kind != "int" or count.data < 0 or not isinstance(key.data, str | int):
            raise Refused("layout", f"it uses the storage type {_spelled(str(kind.data))[:80]}, which is not read")
        made = Storage(str(key.data), count.data, count.data * width)
        known = self.found.storages.setdefault(made.key, made)
        if known.size != made.size:
            raise Refused("broken", f"it gives storage {made.key[:40]!r} two sizes")
        return Value("storage", made)


def _check_view(arguments: tuple[Value, ...]) -> None:
    """A tensor's view must lie inside its storage and must not repeat it."""
    if len(arguments) < 4 or arguments[0].kind != "storage" or arguments[1].kind != "int":
        raise Refused("broken", "it rebuilds a tensor from something that is no storage")
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
    """Bytes per element of the dtype argument of ``_rebuild_tensor_v3``; 1 where the argument is none."""
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


def _spelled(name: str) -> str:
    return name.replace(" ", ".")


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.found.called.append(f"{module} {name}")
    known = (
        argument in pickle_names.CALLS
        or argument in pickle_names.STORAGES
        or (module == "torch" and name in pickle_names.DTYPES)
    )
    if any(part in name for part in pickle_names.LAYOUTS) or "_get_layout" in name:
        raise Refused("layout", f"it holds a tensor that is not dense ({_spelled(argument)})")
    if not known:
        raise Refused("object", f"it rebuilds {_spelled(argument)[:120]}, which is not a plain tensor or container")
    machine.push(Value("global", argument))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments = machine.pop()
    machine.push(machine.call(machine.pop(), arguments))


def _new(machine: _Machine, _: Any) -> None:
    arguments, made = machine.pop(), machine.pop()
    if made.kind != "global" or made.data != "argparse Namespace" or arguments.data:
        raise Refused("object", f"it creates {_spelled(str(made.data))[:80]}")
    machine.push(Value("object"))


def _build(machine: _Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    if target.kind not in ("dict", "object") or state.kind != "dict":
        raise Refused("object", f"it sets the state of a {target.kind}")


def _discard(count: int, into: str) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        for _index in range(count):
            machine.pop()
        _require(machine, into)

    return step


def _discard_marked(into: str) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        machine.since_mark()
        _require(machine, into)

    return step


def _require(machine: _Machine, kind: str) -> None:
    found = machine.top().kind
    if found != kind and not (kind == "dict" and found == "object"):
        raise Refused("broken", f"it adds items to a {found}")


def _push(kind: str, keep: bool = False) -> Callable[[_Machine, Any], None]:
    same = Value(kind)

    def step(machine: _Machine, argument: Any) -> None:
        machine.push(Value(kind, argument) if keep else same)

    return step


def _tuple(size: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        machine.make_tuple([machine.pop() for _index in range(size)][::-1])

    return step


def _put(machine: _Machine, index: int) -> None:
    if index < 0:
        raise Refused("broken", "it remembers a value under a negative number")
    machine.memo[index] = machine.top()


def _steps() -> Iterator[tuple[str, Callable[[_Machine, Any], None]]]:
    yield "PROTO", lambda machine, version: _protocol(version)
    yield "STOP", lambda machine, _: None
    yield "MARK", lambda machine, _: machine.marks.append(len(machine.stack))
    yield "GLOBAL", _global
    yield "REDUCE", _reduce
    yield "NEWOBJ", _new
    yield "BUILD", _build
    yield "BINPERSID", lambda machine, _: machine.push(machine.storage(machine.pop()))
    yield "TUPLE", lambda machine, _: machine.make_tuple(machine.since_mark())
    for size in (1, 2, 3):
        yield (
            f"TUPLE{size}",
            _tuple(size),
        )
    yield "EMPTY_TUPLE", lambda machine, _: machine.make_tuple([])
    yield "EMPTY_LIST", _push("list")
    yield "EMPTY_DICT", _push("dict")
    yield "EMPTY_SET", _push("set")
    yield "APPEND", _discard(1, "list")
    yield "APPENDS", _discard_marked("list")
    yield "SETITEM", _discard(2, "dict")
    yield "SETITEMS", _discard_marked("dict")
    for name in ("BINPUT", "LONG_BINPUT"):
        yield name, _put
    for name in ("BINGET", "LONG_BINGET"):
        yield name, lambda machine, index: machine.push(machine.memo[index])
    for name in ("BININT", "BININT1", "BININT2", "LONG1"):
        yield name, _push("int", keep=True)
    for name in ("BINUNICODE", "SHORT_BINSTRING"):
        yield name, _push("text", keep=True)
    for name, kind in (("NONE", "none"), ("NEWTRUE", "bool"), ("NEWFALSE", "bool"), ("BINFLOAT", "float")):
        yield name, _push(kind)


def _protocol(version: int) -> None:
    if version != 2:
        raise Refused("object", f"it is a pickle of protocol {version}; torch.save writes protocol 2")


_STEPS: dict[str, Callable[[_Machine, Any], None]] = dict(_steps())
