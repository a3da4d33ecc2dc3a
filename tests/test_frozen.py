"""Definitions of whole packages: results cannot be changed after they were made, and nothing is trusted by default."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

FILLED = {
    "cbsurgeon.checks.parity.inputs.images.Agreement",
    "cbsurgeon.checks.parity.variation.Variation",
    "cbsurgeon.checks.parity.variation._Seen",
    "cbsurgeon.graph.axes.table.AxisTable",
    "cbsurgeon.graph.axes.table.Evidence",
    "cbsurgeon.graph.blocks.reading.Reading",
    "cbsurgeon.graph.branches.body.Body",
    "cbsurgeon.graph.capture.parts._Descent",
    "cbsurgeon.surgery.module.keeping.Kept",
}
"""Classes that are filled step by step."""


def modules(package: str) -> Iterator[ModuleType]:
    root = importlib.import_module(f"cbsurgeon.{package}")
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
        yield importlib.import_module(found.name)


@pytest.mark.parametrize("package", ["checks", "surgery", "graph"])
def test_dataclasses_are_frozen(package: str) -> None:
    changeable = set()
    for module in modules(package):
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
                changeable |= set() if value.__dataclass_params__.frozen else {f"{module.__name__}.{name}"}
    assert changeable == {name for name in FILLED if name.startswith(f"cbsurgeon.{package}.")}


def test_nothing_is_trusted_by_default() -> None:
    """Files that can run code need ``trust=True``, or a caller that passes on what it was told."""
    asked = 0
    for module in modules("checks"):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                parameter = inspect.signature(value).parameters.get("trust")
                asked += parameter is not None
                assert parameter is None or parameter.default in (False, inspect.Parameter.empty), f"{module}: {name}"
    assert asked >= 2
