"""Check the instructions of a pickle without running them.

``torch.load(weights_only=True)`` limits the functions that a pickle may call, but not its memory or its time. A file of
a kilobyte can name a storage of a terabyte, a tuple whose hash would take years, or a tensor whose view is outside its
storage. This scan executes the opcodes on descriptions of values, so that such a file is refused before torch reads it.
It allows less than torch does: plain containers, numbers, text, and dense tensors.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from cbsurgeon.models.files.pickles import names as pickle_names
from cbsurgeon.models.files.pickles.machine import Machine, Refused, Scan, Value, spelled

LARGEST = 16 << 20
"""Largest size in bytes of a pickle; a state dict of ten thousand tensors needs about two million."""
MOST_OPERATIONS = 1_000_000
"""Largest number of operations in a pickle; a tensor takes about 35. Scanning this many takes some seconds."""


def scan(stream: io.BytesIO) -> Scan:
    """Scan one pickle; afterwards the stream is at its end.

    The stream must be in memory: reading from a file would allocate whatever length an instruction claims.

    Raises:
        Refused: the pickle is not plain weights.
    """
    machine, start = Machine(), stream.tell()
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
            if (position or 0) - start > LARGEST or count > MOST_OPERATIONS:
                raise Refused("limit", f"its pickle is longer than {LARGEST >> 20} MiB or {MOST_OPERATIONS} operations")
            step = _STEPS.get(opcode.name)
            if step is None:
                raise Refused("object", f"it uses the pickle operation {opcode.name}, which plain weights do not need")
            step(machine, argument)
        machine.found.top = machine.pop()
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise Refused("broken", f"its pickle does not parse: {str(error)[:120]}") from error
    return machine.found


def _global(machine: Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.found.called.append(f"{module} {name}")
    known = (
        argument in pickle_names.CALLS
        or argument in pickle_names.STORAGES
        or (module == "torch" and name in pickle_names.DTYPES)
    )
    if any(part in name for part in pickle_names.LAYOUTS) or "_get_layout" in name:
        raise Refused("layout", f"it holds a tensor that is not dense ({spelled(argument)})")
    if not known:
        raise Refused("object", f"it rebuilds {spelled(argument)[:120]}, which is not a plain tensor or container")
    machine.push(Value("global", argument))


def _reduce(machine: Machine, _: Any) -> None:
    arguments = machine.pop()
    machine.push(machine.call(machine.pop(), arguments))


def _new(machine: Machine, _: Any) -> None:
    arguments, made = machine.pop(), machine.pop()
    if made.kind != "global" or made.data != "argparse Namespace" or arguments.data:
        raise Refused("object", f"it creates {spelled(str(made.data))[:80]}")
    machine.push(Value("object"))


def _build(machine: Machine, _: Any) -> None:
    state, target = machine.pop(), machine.top()
    if target.kind not in ("dict", "object") or state.kind != "dict":
        raise Refused("object", f"it sets the state of a {target.kind}")


def _discard(count: int, into: str) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        for _index in range(count):
            machine.pop()
        _require(machine, into)

    return step


def _discard_marked(into: str) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        machine.since_mark()
        _require(machine, into)

    return step


def _require(machine: Machine, kind: str) -> None:
    found = machine.top().kind
    if found != kind and not (kind == "dict" and found == "object"):
        raise Refused("broken", f"it adds items to a {found}")


def _push(kind: str, keep: bool = False) -> Callable[[Machine, Any], None]:
    same = Value(kind)

    def step(machine: Machine, argument: Any) -> None:
        machine.push(Value(kind, argument) if keep else same)

    return step


def _tuple(size: int) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        machine.make_tuple([machine.pop() for _index in range(size)][::-1])

    return step


def _put(machine: Machine, index: int) -> None:
    if index < 0:
        raise Refused("broken", "it remembers a value under a negative number")
    machine.memo[index] = machine.top()


def _steps() -> Iterator[tuple[str, Callable[[Machine, Any], None]]]:
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


_STEPS: dict[str, Callable[[Machine, Any], None]] = dict(_steps())
