"""The repository's own documentation: paths in the map exist, packages say what belongs in them, types are shipped."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import cbsurgeon
from tests.test_imports import PACKAGES

PACKAGE = Path(cbsurgeon.__file__).parent
ROOT = PACKAGE.parent
MAP = (PACKAGE / "README.md").read_text()
GUIDE = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
INITS = sorted(PACKAGE.rglob("__init__.py"))


def paths(text: str) -> list[str]:
    """Paths inside the package that a text names; ``NAME`` stands for a new file."""
    return [path for path in re.findall(r"`([a-z_]+(?:/[\w.*]+)+/?|vocabulary\.py)`", text) if "NAME" not in path]


@pytest.mark.parametrize("path", sorted({*paths(MAP)}))
def test_paths_of_the_map_exist(path: str) -> None:
    assert (PACKAGE / path).exists() or (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted({*paths(GUIDE)}))
def test_paths_of_the_guide_exist(path: str) -> None:
    places = [PACKAGE, ROOT]
    assert any(list(place.glob(path)) for place in places), path


def test_the_map_has_every_package_in_the_order_of_imports() -> None:
    """``graph`` before ``surgery``: a package imports only those above it in the table."""
    rows = re.findall(r"^\| `([a-z]+)(?:\.py)?` \|", MAP, re.MULTILINE)
    existing = [name for name in PACKAGES if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()]
    assert rows == existing


def test_the_files_named_in_the_map_contain_the_answers() -> None:
    """A word that must be in the file that the map names, for the questions that one word can answer."""
    wanted = {
        "the formula of CB_S": "formula",
        "the FLOP count of CB_S": "def plain_cost",
        "the rule that a GELU keeps axes": "ELEMENTWISE",
        "the causal check": "causal",
        "the flag `--layers`": '"--layers"',
        "ImageNet preprocessing": "mean",
        "the folding of CB into weights": "def fold",
        "the verdict of `bench`": "inconclusive",
    }
    answers = dict(re.findall(r"^\| (.+?) \| `([^`]+)`.* \|$", MAP, re.MULTILINE))
    for question, word in wanted.items():
        assert word in (PACKAGE / answers[question]).read_text(), question


@pytest.mark.parametrize("file", INITS, ids=lambda file: str(file.relative_to(PACKAGE).parent))
def test_a_package_says_what_belongs_in_it_and_what_does_not(file: Path) -> None:
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert "Not here:" in " ".join(text.split()), (
        f'{file}: end its docstring with "Not here: ..." and where that is instead'
    )


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert packages == {"packages": ["cbsurgeon"]}, "hatchling then takes every file of the package, py.typed too"


def test_tensorrt_is_not_asked_for_where_there_is_none() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = [one for one in extras["tensorrt-rtx"] if one.startswith("tensorrt")]
    assert asked and all(one.endswith("; sys_platform != 'darwin'") for one in asked)
    assert "tensorrt-rtx" in extras["all"][0] and "tensorrt," not in extras["all"][0]


def test_the_readme_says_what_is_stable() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("## What is stable")[2].partition("\n## ")[0]
    for word in ("cbsurgeon.__all__", "schema", "exit codes", "error codes"):
        assert word in section
