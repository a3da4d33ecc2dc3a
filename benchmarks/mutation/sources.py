"""Which mutants there are, and which of them are drawn."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutation.covering import PACKAGES, ROOT

Span = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Mutant:
    """One change of one line.

    Attributes:
        file: path from the root of the repository.
        line: number of the line.
        source: the line without indentation.
        nth: number of equal lines before it in the file.
        operator: the operator of cosmic-ray.
        occurrence: number of places in the file before it that the operator could change.
        within: number of such places before it in equal lines' place, that is, in the line itself.
    """

    file: str
    line: int
    source: str
    nth: int
    operator: str
    occurrence: int
    within: int

    @property
    def key(self) -> str:
        """The mutant in the results: the text of its line, not the number, so that it outlives edits elsewhere."""
        nth = f" ({self.nth + 1})" if self.nth else ""
        return f"{self.file}: {self.source}{nth} | {self.operator.removeprefix('core/')} {self.within}"


def mutants(files: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants of the given files, or of all, that can change what the code does."""
    import cosmic_ray.ast
    import cosmic_ray.plugins

    names = [name for name in cosmic_ray.plugins.operator_names() if "Variable" not in name]  # these need arguments
    operators = {name: cosmic_ray.plugins.get_operator(name)() for name in names}
    found: list[Mutant] = []
    for path in (path for package in PACKAGES for path in sorted((ROOT / "cbsurgeon" / package).rglob("*.py"))):
        file = str(path.relative_to(ROOT))
        if files and file not in files:
            continue
        text = path.read_text()
        lines = [line.strip() for line in text.splitlines()]
        unevaluated = _unevaluated(text)
        counts: Counter[str] = Counter()
        in_line: Counter[tuple[int, str]] = Counter()
        for node in cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(text)):
            for name, operator in operators.items():
                for (line, column), _ in operator.mutation_positions(node):
                    number, within = counts[name], in_line[line, name]
                    counts[name] += 1
                    in_line[line, name] += 1
                    if any(begin <= (line, column) < end for begin, end in unevaluated):
                        continue
                    nth = lines[: line - 1].count(lines[line - 1])
                    found.append(Mutant(file, line, lines[line - 1], nth, name, number, within))
    return found


def _unevaluated(text: str) -> list[Span]:
    """Return the positions of annotations and of conditions for type checkers."""
    spans = []
    for node in ast.walk(ast.parse(text)):
        parts = [getattr(node, field, None) for field in ("annotation", "returns")]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            parts.append(node.test)
            spans.append(((node.lineno, node.col_offset), (node.test.lineno, node.test.col_offset)))
        for part in parts:
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                spans.append(((part.lineno, part.col_offset), end))
    return spans


def sample(every: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return mutants of randomly drawn lines, one per line, so that lines with many mutants have no larger weight.

    A line's place in the draw depends on the seed, its file and its text, so an edit of one line moves no other.
    """
    by_line: dict[tuple[str, str, int], list[Mutant]] = {}
    for mutant in every:
        by_line.setdefault((mutant.file, mutant.source, mutant.nth), []).append(mutant)
    lines = sorted(by_line, key=lambda line: _number(seed, line))
    chosen = []
    for line in lines:
        several = sorted(by_line[line], key=lambda mutant: _number(seed, mutant.key))
        first = next((mutant for mutant in several if text_of(mutant) is not None), None)
        chosen += [first] if first is not None else []
        if len(chosen) == count:
            break
    return chosen


def _number(seed: int, thing: object) -> str:
    return hashlib.sha256(f"{seed} {thing}".encode()).hexdigest()


def text_of(mutant: Mutant) -> str | None:
    """Return the source of the mutated file; ``None`` if it is the same, or not Python (``*`` as ``-``)."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    before = Path(ROOT / mutant.file).read_text()
    after = mutate_code(before, get_operator(mutant.operator)(), mutant.occurrence)
    if after is None or ast.dump(ast.parse(before)) == (changed := _dump(after)) or changed is None:
        return None
    return after


def _dump(text: str) -> str | None:
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return None


def runs_on_import(mutant: Mutant) -> bool:
    """Return whether the line is in no function body."""
    return len(_around(mutant)) == 0 or isinstance(_around(mutant)[-1], ast.ClassDef)


def lines_that_use(mutant: Mutant) -> list[list[int]]:
    """Return groups of lines; the tests that run a line of the first group with any are the tests of the mutant.

    First the line itself, then those of the functions and classes around it, from the inside, and of the whole file:
    lines that run on import (constants, decorators, defaults) count for no single test.
    """
    whole = list(range(1, (ROOT / mutant.file).read_text().count("\n") + 2))
    around = [list(range(node.lineno, (node.end_lineno or node.lineno) + 1)) for node in reversed(_around(mutant))]
    return [[mutant.line], *around, whole]


Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _around(mutant: Mutant) -> list[Scope]:
    """Return the classes, and the functions with the line in their body, that the line is in, outermost first."""
    found: list[Scope] = []
    for node in ast.walk(ast.parse((ROOT / mutant.file).read_text())):  # from the outside to the inside
        if isinstance(node, Scope):
            begin = node.lineno if isinstance(node, ast.ClassDef) else node.body[0].lineno
            decorated = isinstance(node, ast.ClassDef) and [each.lineno for each in node.decorator_list]
            if min([begin, *(decorated or ())]) <= mutant.line <= (node.end_lineno or begin):
                found.append(node)
    return found
