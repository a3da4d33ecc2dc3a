"""``cbsurgeon explain`` and ``cbs.explain``, and the line of an error that names the command."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cbsurgeon as cbs
from cbsurgeon.errors import SurgeryError, UsageError, did_you_mean, explanations, nearest
from tests.cli.running import run


def test_a_code_is_explained() -> None:
    outcome = run("explain", "CB-LEAK-01")
    assert outcome.code == 0 and outcome.out.startswith("CB-LEAK-01  ")
    assert all(label in outcome.out for label in ("  means", "  causes", "  do", "--causal"))


def test_python_and_the_command_line_say_the_same() -> None:
    outcome = run("explain", "CB-LEAK-01", "--json")
    assert outcome.document == cbs.explain("CB-LEAK-01").to_dict()
    assert outcome.document["schema"] == "cbsurgeon.explain/1"


def test_without_a_code_all_are_listed_by_area() -> None:
    outcome = run("explain")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    for code, one in explanations().items():
        assert sum(line.split() == [code, *one.title.split()] for line in lines) == 1
        assert one.area in lines
    listed = run("explain", "--json").document["codes"]
    assert [one["code"] for one in listed] == list(explanations())
    assert all(set(one) == {"area", "code", "title"} for one in listed)


@pytest.mark.parametrize("spelling", ["cb-leak-01", " CB-LEAK-01 ", "[CB-LEAK-01]", "CB-LEAK-1", "leak-01"])
def test_spellings_of_a_code(spelling: str) -> None:
    assert cbs.explain(spelling) == cbs.explain("CB-LEAK-01")


def test_an_error_explains_itself() -> None:
    error = SurgeryError("occupied", code="CB-SURGERY-03")
    assert cbs.explain(error) == cbs.explain("CB-SURGERY-03")


@pytest.mark.parametrize(
    ("word", "near"),
    [("CB-LEEK-01", "CB-LEAK-01"), ("CB-LEAK01", "CB-LEAK-01"), ("VERIFY_01", "CB-VERIFY-01"), ("CB-XQ-77", "CB-")],
)
def test_an_unknown_code_suggests_the_nearest(word: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        cbs.explain(word)
    assert caught.value.code == "CB-EXPLAIN-01" and caught.value.exit_code == 2
    assert f"cbsurgeon explain {near}" in caught.value.do
    assert run("explain", word).code == 2


def test_error_for_an_unknown_code_names_the_list() -> None:
    with pytest.raises(UsageError, match="no error code") as caught:
        cbs.explain("%")
    assert caught.value.do.endswith("cbsurgeon explain")


def test_the_last_line_of_an_error_names_the_command() -> None:
    outcome = run("inspect", "no/such/file.pt")
    last = outcome.err.splitlines()[-1]
    assert last == "  more   cbsurgeon explain CB-LOAD-01"
    assert run(*last.split()[2:]).code == 0
    document = run("inspect", "no/such/file.pt", "--json").document
    assert document["more"] == "cbsurgeon explain CB-LOAD-01"


def test_explaining_imports_neither_torch_nor_the_other_tables() -> None:
    code = (
        "import sys; from cbsurgeon.cli import main; main(['explain', 'CB-OUT-01']);"
        "heavy = {'torch', 'numpy', 'rich'} & set(sys.modules);"
        "others = [name for name in sys.modules if name.startswith('cbsurgeon.errors.codes.')];"
        "sys.exit(str(heavy) if heavy or others != ['cbsurgeon.errors.codes.outputs'] else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("word", "known", "first"),
    [
        ("uper", ("all", "upper", "lower"), "upper"),
        ("UPPER", ("all", "upper", "lower"), "upper"),
        ("fp16", ("float16", "bfloat16"), "float16"),
        ("bf16", ("float16", "bfloat16"), "bfloat16"),
        ("attn", ("mlp", "msa", "both"), "msa"),
        ("train", ("explain", "sweep", "ship"), "sweep"),
        ("convert", ("inspect", "insert", "export"), "export"),
        ("ende", ("front", "mid", "end"), "end"),
        ("vit_b", ("swin_t", "vit_b_16", "vit_b_16_long"), "vit_b_16"),
    ],
)
def test_nearest(word: str, known: tuple[str, ...], first: str) -> None:
    assert nearest(word, known)[0] == first
    assert did_you_mean(word, known, "--x ") == f"did you mean --x {first}?"


def test_nothing_alike_suggests_nothing() -> None:
    assert nearest("qqqq", ("all", "upper")) == [] and did_you_mean("qqqq", ("all", "upper")) == ""


def test_at_most_as_many_as_asked() -> None:
    assert len(nearest("block", [f"block{number}" for number in range(9)], 2)) == 2


def test_an_area_lists_its_codes_and_no_other() -> None:
    lines = run("explain", "leak").out.splitlines()
    assert lines[0] == "causal models and padding"
    assert [line.split()[0] for line in lines[1:]] == [code for code in explanations() if code.startswith("CB-LEAK-")]
    listed = run("explain", "LEAK", "--json").document["codes"]
    assert {row["code"] for row in listed} == {line.split()[0] for line in lines[1:]}
