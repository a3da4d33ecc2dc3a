"""The import direction between packages, what ``import cbsurgeon`` needs, and that no name shadows a module."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import cbsurgeon

ROOT = Path(cbsurgeon.__file__).parent

# From the bottom. A file imports from its own package and from the packages before it.
PACKAGES = (
    "errors",
    "vocabulary",
    "options",
    "operators",
    "models",
    "graph",
    "surgery",
    "deploy",
    "data",
    "checks",
    "analysis",
    "evaluation",
    "sweeps",
    "integrations",
    "report",
    "verbs",
    "cli",
)
EVERYWHERE = {"escapes", "lazy", "version"}

# Imported inside the functions that need them: they are optional, or too slow for every start.
INSIDE_FUNCTIONS = {
    "PIL",
    "captum",
    "datasets",
    "fvcore",
    "matplotlib",
    "optuna",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "ray",
    "rich",
    "safetensors",
    "skimage",
    "tensorrt",
    "tensorrt_rtx",
    "timm",
    "torchmetrics",
    "torchvision",
    "transformers",
    "webdataset",
}
FILES = sorted(ROOT.rglob("*.py"))


def top_package(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


# ``cbsurgeon.__init__`` imports public names from every package.
IN_PACKAGES = [path for path in FILES if top_package(path) not in ("__init__", "__main__")]
SILENT = [path for path in IN_PACKAGES if top_package(path) != "cli"]


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, int, bool]]:
    """Every imported module: its full name, its line, and whether the import runs at import time."""

    def walk(node: ast.AST, at_start: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, at_start) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package.rsplit(".", child.level - 1)[0] if child.level else ""
                origin = ".".join(part for part in (base, child.module) if part)
                yield origin, child.lineno, at_start
                yield from ((f"{origin}.{alias.name}", child.lineno, at_start) for alias in child.names)
            else:
                typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or typing_only
                yield from walk(child, at_start and not inside)

    yield from walk(tree, True)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def package_of(path: Path) -> str:
    return ".".join(("cbsurgeon", *path.relative_to(ROOT).parent.parts))


@pytest.mark.parametrize("path", IN_PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_towards_the_bottom_only(path: Path) -> None:
    package = top_package(path)
    if package in EVERYWHERE:
        allowed: set[str] = set()
    else:
        assert package in PACKAGES, f"{path} is in a package that is not in PACKAGES"
        allowed = {*PACKAGES[: PACKAGES.index(package) + 1], *EVERYWHERE}
    wrong = [
        f"line {line}: {name}"
        for name, line, _ in imports(parsed(path), package_of(path))
        if name.startswith("cbsurgeon.") and name.split(".")[1] not in allowed
    ]
    assert not wrong, f"{path.relative_to(ROOT)} reaches upwards: {wrong}"


def module_of(path: Path) -> str:
    return ".".join(("cbsurgeon", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def uses() -> dict[str, set[str]]:
    """Module → the modules of this package it imports, under ``TYPE_CHECKING`` and inside functions too."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = {name for name, _, _ in imports(parsed(path), package_of(path))}
        found[module] = (names & set(MODULES)) - {module}
        # ``from package import submodule`` needs the submodule, not what the package's __init__ collects.
        found[module] -= {name for name in found[module] if any(n.startswith(f"{name}.") for n in found[module])}
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected groups of more than one node."""
    reached = {start: _reachable(graph, start) for start in graph}
    groups = {frozenset(n for n in reached[start] if start in reached[n]) for start in graph if start in reached[start]}
    return [set(group) for group in groups if len(group) > 1]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    queue = [start]
    while queue:
        for following in graph.get(queue.pop(), set()) - seen:
            seen.add(following)
            queue.append(following)
    return seen


def test_no_two_files_import_each_other() -> None:
    assert not circles(uses())


@pytest.mark.parametrize("parent", sorted({module.rpartition(".")[0] for module in MODULES if "." in module}))
def test_no_two_members_of_a_package_import_each_other(parent: str) -> None:
    """Members are files and sub-packages; a sub-package is taken as a whole."""

    def member(module: str) -> str | None:
        return module[len(parent) + 1 :].split(".")[0] if module.startswith(f"{parent}.") else None

    graph: dict[str, set[str]] = {}
    for module, needed in uses().items():
        own = member(module)
        if own is not None:
            graph.setdefault(own, set()).update(
                other for name in needed if (other := member(name)) is not None and other != own
            )
    assert not circles(graph)


def test_an_import_cycle_is_detected() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_optional_and_slow_packages_are_imported_inside_functions(path: Path) -> None:
    banned = INSIDE_FUNCTIONS | ({"torch", "numpy"} if top_package(path) in ("cli", "__init__", "__main__") else set())
    wrong = [
        f"line {line}: {name}"
        for name, line, at_start in imports(parsed(path), package_of(path))
        if at_start and name.split(".")[0] in banned
    ]
    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@pytest.mark.parametrize("path", SILENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_writes_to_the_terminal(path: Path) -> None:
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    wrong = [
        f"line {call.lineno}" for call in calls if ast.unparse(call.func) in ("print", "sys.stdout.write", "click.echo")
    ]
    assert not wrong, f"{path.relative_to(ROOT)} prints: {wrong}"


def test_the_parser_sees_what_it_must_refuse() -> None:
    """The checks above are worth something only if a wrong import is seen in each of its spellings."""
    source = (
        "import timm\n"
        "from cbsurgeon.cli import options\n"
        "from cbsurgeon import verbs\n"
        "from .. import report\n"
        "def late():\n    import onnx\n"
        "if TYPE_CHECKING:\n    import rich\n"
    )
    seen = {(name, at_start) for name, _, at_start in imports(ast.parse(source), "cbsurgeon.graph")}
    assert {("timm", True), ("cbsurgeon.cli", True), ("cbsurgeon.verbs", True), ("cbsurgeon.report", True)} <= seen
    assert {("onnx", False), ("rich", False)} <= seen


def packages() -> list[str]:
    found = [name for _, name, is_package in pkgutil.walk_packages([str(ROOT)], "cbsurgeon.") if is_package]
    return ["cbsurgeon", *found]


@pytest.mark.parametrize("package", packages())
def test_no_public_name_is_also_a_submodule(package: str) -> None:
    """``from package import name`` would give the function or the module, depending on what was imported first."""
    module = importlib.import_module(package)
    public = {name for name in getattr(module, "__all__", ()) if not isinstance(getattr(module, name), ModuleType)}
    submodules = {name for _, name, _ in pkgutil.iter_modules(module.__path__)}
    assert not public & submodules


def test_every_public_name_exists() -> None:
    for name in cbsurgeon.__all__:
        assert getattr(cbsurgeon, name) is not None
    assert set(cbsurgeon.__all__) <= set(dir(cbsurgeon))
    with pytest.raises(AttributeError, match="no attribute 'inspekt'"):
        cbsurgeon.inspekt  # noqa: B018


def test_import_needs_only_torch() -> None:
    """With every optional package made unimportable, every public name still resolves."""
    code = f"""
import sys, importlib.abc

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {INSIDE_FUNCTIONS | {"click"}!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import cbsurgeon
for name in cbsurgeon.__all__:
    getattr(cbsurgeon, name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_naming_the_package_does_not_import_torch() -> None:
    code = "import sys, cbsurgeon, cbsurgeon.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
