"""Read ``.pt2`` files: exported programs, which can run code when they are read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export._tree_utils import reorder_kwargs
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files import archive, metadata
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.model import Model, Provenance


def require_trust(path: Path, trust: bool) -> None:
    """Refuse an exported program unless the user trusts it (``CB-LOAD-13``)."""
    if not trust:
        raise InputFileError(
            "the file is an exported program",
            code="CB-LOAD-13",
            where=str(path),
            why="reading a .pt2 file can run code it contains; the format has no safe mode",
            do="only for a file of your own, add --trust; else give the weights and the architecture: "
            "cbsurgeon inspect weights.safetensors --arch timm:NAME",
        )


def read(path: Path, *, trust: bool) -> Model:
    """Read an exported program, with its own example inputs and the recipes it was saved with.

    Raises:
        InputFileError: ``trust`` was not given (``CB-LOAD-13``), the archive is unsafe (``CB-ZIP-*``), this torch
            cannot read it, or it does not compute what it records (``CB-LOAD-14``).
    """
    require_trust(path, trust)
    archive.check(path)
    notes = {metadata.KEY: ""}
    try:
        exported = torch.export.load(path, extra_files=notes)
    except Exception as error:
        # Reading runs the file's own program, which may raise anything.
        lines = str(error).splitlines() or [""]
        raise InputFileError(
            "the exported program could not be read",
            code="CB-LOAD-14",
            where=str(path),
            why=f"{type(error).__name__}: {lines[0][:160]}",
            do="export it again with this version of torch",
        ) from error
    if exported.example_inputs is None:
        raise InputFileError(
            "the exported program has no example inputs",
            code="CB-LOAD-14",
            where=str(path),
            why="the program is run on them to find its batch and to check it; torch.export.save usually stores them",
            do="export it again, and save it with the example inputs of the capture",
        )
    if empty := _empty_payload(exported, path):
        raise InputFileError(
            "the exported program has lost weights",
            code="CB-LOAD-14",
            where=f"{path}: {empty}",
            why="the file has no bytes for it, and torch would use whatever is in memory",
            do="copy the file again, or export it again",
        )
    _require_true(exported, path)
    own = metadata.read(notes[metadata.KEY], str(path)) if notes[metadata.KEY] else metadata.Metadata()
    positional, keywords = exported.example_inputs or ((), {})
    origin = Provenance(str(path), own.architecture, own.architecture_options, files.digest(path), source="file")
    return Model(None, tuple(positional), origin, dict(keywords), exported, own.recipes, own.preprocessing)


def _empty_payload(exported: ExportedProgram, path: Path) -> str:
    """Return the name of a tensor that has values, but no bytes in the file; empty if there is none."""
    tensors = {**exported.constants, **exported.state_dict}
    with zipfile.ZipFile(path) as opened:
        members = {name.partition("/")[2]: opened.getinfo(name) for name in opened.namelist()}
        for kind in ("weights", "constants"):
            config = members.get(f"data/{kind}/model_{kind}_config.json")
            if config is None:  # another version of the format
                continue
            for name, entry in json.loads(opened.read(config))["config"].items():
                payload, tensor = members.get(f"data/{kind}/{entry['path_name']}"), tensors.get(name)
                if payload is not None and not payload.file_size and isinstance(tensor, Tensor) and tensor.numel():
                    return str(name)
    return ""


def _require_true(exported: ExportedProgram, path: Path) -> None:
    """Run a program on its example inputs, and refuse it if a value has another shape or type than the file records.

    Blocks and axes are found by the recorded shapes, so false ones would lead to wrong insertions.

    Raises:
        InputFileError: a value differs, or the program does not run (``CB-LOAD-14``).
    """
    run = _Recorded(exported.graph_module)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            run.run(*_flat(exported), enable_io_processing=False)
    except _False as error:
        why = str(error)
    except Exception as error:  # the operators of a file may raise anything
        why = f"it does not run on its example inputs: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    else:
        return
    raise InputFileError(
        "the exported program does not compute what it records",
        code="CB-LOAD-14",
        where=f"{path}: {run.place}",
        why=why,
        do="export it again with this version of torch",
    )


class _False(Exception):
    """A value is not as recorded."""


class _Recorded(fx.Interpreter):
    """Runs a graph and compares the shape and type of each value with those that the graph records.

    Attributes:
        place: the node that runs.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.place, self._sizes = "its inputs", dict[Any, Any]()
        self.extra_traceback = False  # it would be added to the messages

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and compare its value."""
        self.place = n.name
        value = super().run_node(n)
        recorded = n.meta.get("val")
        found, known = (
            [leaf for leaf in pytree.tree_leaves(one) if isinstance(leaf, Tensor)] for one in (value, recorded)
        )
        if recorded is not None and n.op != "output":
            for one, other in zip(found, known, strict=False):
                self._compare(n, one, other)
            if len(found) != len(known):
                raise _False(f"it has {len(found)} results, {len(known)} are recorded")
        return value

    def _compare(self, node: fx.Node, value: Tensor, recorded: Tensor) -> None:
        if node.op == "placeholder":
            for size, own in zip(recorded.shape, value.shape, strict=False):
                if isinstance(size, torch.SymInt):
                    self._sizes[size.node.expr] = sympy.Integer(own)
        sizes = [self._number(size, own) for size, own in zip(recorded.shape, value.shape, strict=False)]
        if value.dim() != recorded.dim() or sizes != list(value.shape) or value.dtype != recorded.dtype:
            raise _False(
                f"its value is {_described(value.dtype, value.shape)}, recorded is "
                f"{_described(recorded.dtype, recorded.shape)}"
            )

    def _number(self, size: int | torch.SymInt, own: int) -> int:
        """Return a recorded size as a number; the value's own if it depends on data."""
        if isinstance(size, int):
            return size
        value = size.node.expr.xreplace(self._sizes)
        return own if value.free_symbols else int(value)


def _described(dtype: torch.dtype, shape: Any) -> str:
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}]"


def _flat(exported: ExportedProgram) -> Iterator[Any]:
    """Yield a value for each input of the graph: weights, constants and example inputs; copies if the graph writes."""
    writes = any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in exported.graph.nodes)
    args, kwargs = exported.example_inputs
    given = iter(pytree.tree_leaves((args, reorder_kwargs(dict(kwargs), exported.call_spec.in_spec))))
    held: Mapping[str, Any] = {**exported.constants, **exported.state_dict}
    for spec in exported.graph_signature.input_specs:
        value = next(given) if spec.kind is InputKind.USER_INPUT else held[str(spec.target)]
        yield value.clone() if writes and isinstance(value, Tensor) else value
