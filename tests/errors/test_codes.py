"""Every error code: raised somewhere, explained, and provoked by a test. The sources are parsed, nothing is listed."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cbsurgeon
from cbsurgeon.errors import AREAS, Explanation, explanations

PACKAGE = Path(cbsurgeon.__file__).parent
TESTS = Path(__file__).parents[1]
TABLE = PACKAGE / "errors" / "codes"
CODE = re.compile(r"CB-[A-Z0-9]+-\d\d")

UNPROVOKED: dict[str, str] = {}
"""Codes that no test can provoke on a machine without a GPU, and the reason of each."""


def passed_codes(tree: ast.AST) -> Iterator[str]:
    """The codes that are arguments of a call, and so are raised directly or by a helper."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            for value in (*call.args, *(keyword.value for keyword in call.keywords)):
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and CODE.fullmatch(value.value):
                    yield value.value


def docstrings_of(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are docstrings, of attributes too."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    return {id(part.value) for body in bodies for part in body if isinstance(part, ast.Expr)}


def written_codes(tree: ast.AST) -> Iterator[str]:
    """The codes in a file's texts, docstrings left out."""
    docstrings = docstrings_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from CODE.findall(node.value)


def raised() -> set[str]:
    files = [file for file in PACKAGE.rglob("*.py") if TABLE not in file.parents]
    return {code for file in files for code in passed_codes(ast.parse(file.read_text()))}


def provoked() -> set[str]:
    files = [file for file in TESTS.rglob("test_*.py") if file.name not in ("test_codes.py", "test_explain.py")]
    corpus = [*files, *(TESTS / "attacks").glob("*.py")]
    return {code for file in corpus for code in written_codes(ast.parse(file.read_text()))}


def test_every_raised_code_is_explained_and_every_explained_code_is_raised() -> None:
    known, found = set(explanations()), raised()
    assert sorted(found - known) == [], "explain these in cbsurgeon/errors/codes/"
    assert sorted(known - found) == [], "these are raised nowhere: take them out of cbsurgeon/errors/codes/"


def test_every_code_is_provoked_by_a_test() -> None:
    known, covered = set(explanations()), provoked()
    assert sorted(known - covered - set(UNPROVOKED)) == [], "no test provokes these"
    assert sorted(set(UNPROVOKED) & covered) == [], "these are provoked after all"
    assert set(UNPROVOKED) <= known


def test_no_code_is_written_in_another_form() -> None:
    """``CB-LEAK-1`` or ``CB_LEAK_01`` would escape the tests above."""
    odd = re.compile(r"\bCB[-_][A-Z]{2,}[-_]\d{1,3}\b")
    for file in PACKAGE.rglob("*.py"):
        wrong = [word for word in odd.findall(file.read_text()) if not CODE.fullmatch(word)]
        assert not wrong, f"{file}: {wrong}"


def test_the_parser_sees_a_code_that_a_helper_raises_and_no_docstring() -> None:
    tree = ast.parse('def f():\n    "CB-AAA-01"\n    raise refusal(path, "CB-BBB-02", f"{x}", code="CB-CCC-03")')
    assert set(passed_codes(tree)) == set(written_codes(tree)) == {"CB-BBB-02", "CB-CCC-03"}


@pytest.mark.parametrize("code", explanations())
def test_an_explanation_says_what_it_means_why_and_what_to_do(code: str) -> None:
    one = explanations()[code]
    assert one.title and not one.title.endswith(".") and len(one.title) <= 90
    assert one.means.endswith(".") and len(one.means.split()) >= 4
    assert one.causes and one.do and all(text and not text.endswith(".") for text in (*one.causes, *one.do))


def test_titles_differ() -> None:
    titles = [one.title for one in explanations().values()]
    assert len(titles) == len(set(titles))


def test_every_file_of_the_table_holds_the_codes_of_its_areas() -> None:
    files = {file.stem for file in TABLE.glob("*.py")} - {"__init__"}
    assert files == {area.file for area in AREAS.values()}
    for file in files:
        codes = importlib.import_module(f"cbsurgeon.errors.codes.{file}").CODES
        assert {AREAS[code.split("-")[1]].file for code in codes} == {file}


def test_areas_without_a_code_do_not_stay() -> None:
    assert {one.area for one in explanations().values()} == {area.title for area in AREAS.values()}


def test_the_text_is_wrapped_and_complete() -> None:
    one: Explanation = explanations()["CB-LEAK-01"]
    for width in (60, 100):
        text = one.text(width)
        assert max(map(len, text.splitlines()[1:])) <= width
        words = " ".join(text.split())
        assert all(" ".join(part.split()) in words for part in (one.title, one.means, *one.causes, *one.do))


WITHOUT_A_REASON = "cli/common/failure.py"
"""Wrong commands, whose first line is the reason: an option that does not exist, or that is missing."""


def test_every_error_says_where_why_and_what_to_do() -> None:
    """Checked where an error is made with its code by name; helpers that make several errors are such a place."""
    for file in PACKAGE.rglob("*.py"):
        parts = {"where", "do"} | (set() if file.as_posix().endswith(WITHOUT_A_REASON) else {"why"})
        for call in ast.walk(ast.parse(file.read_text())):
            keywords = {keyword.arg for keyword in call.keywords} if isinstance(call, ast.Call) else set()
            if "code" in keywords:
                assert parts <= keywords, f"{file}, line {call.lineno}: {ast.unparse(call)[:80]}"
