"""Casting a program to a 16-bit type for export: parts can stay in float32, and an overflow is an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from cbsurgeon.deploy.casting import DTYPES, cast
from cbsurgeon.deploy.clock import Clock
from cbsurgeon.deploy.overflow import (
    ATTENTION,
    LARGE_MAGNITUDE,
    Overflow,
    enlarged,
    of_type,
    overflows,
    whole_chains,
    with_readers,
)
from cbsurgeon.errors import ExportError, UsageError, did_you_mean
from cbsurgeon.graph import Program, aten
from cbsurgeon.options import ExportOptions
from cbsurgeon.options.texts import words

OVERFLOWING = "overflowing"
"""The word that means "all nodes that overflow", used in place of a module path."""

# ``overflowing`` also includes tensors near the limit, because other inputs can be larger than the examples.
HEADROOM = 2.0

# An overflow is harmless if keeping it in float32 improves the outputs by less than this factor. The rounding noise of
# two correct forms differs by a factor of about 2.
HARMLESS = 4.0

# Relative differences of the outputs below this are harmless in any case: one rounding of float16.
ROUNDING = torch.finfo(torch.float16).eps


@dataclass(frozen=True)
class Typed:
    """A program in a 16-bit type.

    Attributes:
        program: the program.
        kept: nodes that compute in float32, as ``module path (node)``.
        notes: facts that the user should know about overflows.
    """

    program: Program
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_types(how: ExportOptions) -> None:
    """Check the options about types before any work is done.

    Raises:
        UsageError: an unsupported type (CB-EXPORT-02), or ``keep_float32`` without a 16-bit type (CB-EXPORT-14).
    """
    if how.dtype is not None and how.dtype not in DTYPES:
        raise UsageError(
            f"unknown dtype {how.dtype!r}",
            code="CB-EXPORT-02",
            where="--dtype",
            why=f"a model can be exported in {' or '.join(DTYPES)}",
            do=f"{did_you_mean(how.dtype, DTYPES)} leave it out to keep the model's own type".strip(),
        )
    if how.dtype is None and how.keep_float32:
        raise _nothing_to_keep(how, "the export is not cast to a 16-bit type", "add --dtype float16, or leave it out")


def typed(program: Program, how: ExportOptions, clock: Clock) -> Typed:
    """Cast a program to the requested type, and check that it does not overflow on the example inputs.

    Args:
        program: a program.
        how: ``dtype``, and ``keep_float32`` with the parts that stay in float32: module paths (with everything below
            them; ``*`` is a wildcard), names of nodes, or ``overflowing``.
        clock: times the cast.

    Raises:
        UsageError: a name in ``keep_float32`` is not in the program, or the program is not float32 (CB-EXPORT-14).
        ExportError: the type overflows (CB-EXPORT-13), or an operator does not support it (CB-EXPORT-06).
    """
    if how.dtype is None or how.dtype == floating_type(program):
        if how.keep_float32:
            raise _nothing_to_keep(how, f"the model is already in {floating_type(program)}", "leave it out")
        return Typed(program)
    with clock("cast", f"casting to {how.dtype}"):
        return _cast(program, how.dtype, how.keep_float32)


def kept_in_range(program: Program, dtype: torch.dtype, inputs: Mapping[str, Tensor]) -> frozenset[str]:
    """Return the nodes that ``overflowing`` keeps in float32, for these inputs instead of the examples."""
    limit = torch.finfo(dtype).max / HEADROOM
    found = overflows(program, inputs, limit, of_type(cast(program, dtype), dtype))
    return with_readers(program, [one.node for one in found])


def floating_type(program: Program) -> str:
    """Return the floating type of most of a program's weights."""
    counts: dict[str, int] = {}
    for tensor in program.exported.state_dict.values():
        if tensor.is_floating_point():
            counts[str(tensor.dtype)] = counts.get(str(tensor.dtype), 0) + tensor.numel()
    return max(counts, key=lambda name: counts[name], default="torch.float32").removeprefix("torch.")


def _cast(program: Program, dtype: str, keep: str | Iterable[str]) -> Typed:
    keep = words(keep) if isinstance(keep, str) else tuple(keep)
    kind = DTYPES[dtype]
    kept = _named(program, [word for word in keep if word != OVERFLOWING])
    made = cast(program, kind, kept)
    found = _found(program, made, kind)
    if OVERFLOWING not in keep:
        return Typed(made, _described(program, kept), _judged(program, made, dtype, kept, found))
    near = with_readers(program, [one.node for one in (*found.usual, *found.large)])
    if not near:
        note = f"no value is near the largest {dtype} number, so {OVERFLOWING} keeps no node in float32"
        return Typed(made, _described(program, kept), (note,))
    return Typed(cast(program, kind, kept | near), _described(program, kept | near))


@dataclass(frozen=True)
class _Found:
    """The tensors near the limit, on the example inputs and on the example inputs multiplied by a large factor."""

    usual: list[Overflow]
    large: list[Overflow]


def _found(program: Program, made: Program, dtype: torch.dtype) -> _Found:
    limit, among = torch.finfo(dtype).max / HEADROOM, of_type(made, dtype)
    return _Found(
        *(overflows(program, inputs, limit, among) for inputs in (program.example, enlarged(program.example)))
    )


def _judged(program: Program, made: Program, dtype: str, kept: frozenset[str], found: _Found) -> tuple[str, ...]:
    """Return notes about overflows that are harmless.

    Raises:
        ExportError: an overflow changes the outputs (CB-EXPORT-13).
    """
    limit = torch.finfo(DTYPES[dtype]).max
    beyond = [one for one in found.usual if one.largest > limit]
    if beyond:
        mixed = cast(program, DTYPES[dtype], kept | with_readers(program, [one.node for one in beyond]))
        scores = any(one.operator == ATTENTION for one in beyond)
        if scores or _distance(program, made) > max(HARMLESS * _distance(program, mixed), ROUNDING):
            raise _refused(beyond, dtype, limit)
        return (f"{dtype} overflows without changing the outputs of the example inputs, first at {beyond[0]}",)
    larger = [one for one in found.large if one.largest > limit]
    if not larger:
        return ()
    return (
        f"inputs {LARGE_MAGNITUDE:g} times as large as the example overflow {dtype}, first at {larger[0]}: "
        f"--keep-float32 {OVERFLOWING} keeps those nodes in float32",
    )


def _refused(beyond: list[Overflow], dtype: str, limit: float) -> ExportError:
    first, paths = beyond[0], list(dict.fromkeys(one.path or "the top level" for one in beyond))
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ExportError(
        f"{dtype} overflows in {first.path or 'the model'}",
        code="CB-EXPORT-13",
        where=str(first),
        why=f"on the example inputs its values reach {first.largest:.3g}, and the largest {dtype} number is {limit:g}; "
        f"{len(beyond)} tensors exceed it, in {', '.join(paths[:5])}{more}",
        do=f"--keep-float32 {OVERFLOWING} keeps them in float32; or --dtype bfloat16, which has float32's range",
    )


def _distance(program: Program, other: Program) -> float:
    """Return the largest relative L2 distance of two programs' outputs; infinite if only ``other`` is not finite."""
    exact = program.run(program.example)
    found = other.run({name: value.to(other.example[name].dtype) for name, value in program.example.items()})
    return max((_relative(found[name], value) for name, value in exact.items()), default=0.0)


def _relative(found: Tensor, exact: Tensor) -> float:
    if not exact.is_floating_point():
        return 0.0 if torch.equal(found, exact) else math.inf
    finite = torch.isfinite(exact)
    gap, size = (found.double() - exact.double())[finite], exact[finite].double()
    if not bool(torch.isfinite(gap).all()):
        return math.inf
    return float(gap.norm()) / max(float(size.norm()), torch.finfo(torch.float64).tiny)


def _named(program: Program, patterns: list[str]) -> frozenset[str]:
    """Return the names of the nodes that the patterns match.

    Raises:
        UsageError: a pattern matches nothing (CB-EXPORT-14).
    """
    nodes = [node for node in program.exported.graph.nodes if node.op == "call_function"]
    chosen: set[str] = set()
    for pattern in patterns:
        hits = {
            node.name
            for node in nodes
            if node.name == pattern or any(fnmatchcase(aten.path(node), p) for p in (pattern, f"{pattern}.*"))
        }
        if not hits:
            paths = {aten.path(node) for node in nodes} - {""}
            raise UsageError(
                f"there is no module {pattern!r} to keep in float32",
                code="CB-EXPORT-14",
                where=f"--keep-float32 {pattern}",
                why="it is neither a module path of the captured model nor the name of a node",
                do=did_you_mean(pattern, {*paths, OVERFLOWING}, "--keep-float32 ") or f"--keep-float32 {OVERFLOWING}",
            )
        chosen |= hits
    return whole_chains(nodes, chosen)


def _described(program: Program, kept: frozenset[str]) -> tuple[str, ...]:
    nodes = [node for node in program.exported.graph.nodes if node.op == "call_function" and node.name in kept]
    return tuple(f"{aten.path(node) or 'top level'} ({node.name})" for node in nodes)


def _nothing_to_keep(how: ExportOptions, why: str, do: str) -> UsageError:
    kept = how.keep_float32 if isinstance(how.keep_float32, str) else ",".join(how.keep_float32)
    return UsageError(
        "there is no node to keep in float32", code="CB-EXPORT-14", where=f"--keep-float32 {kept}", why=why, do=do
    )
