"""Names from files cannot steer the terminal, and ``--json`` is always one valid document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbsurgeon.cli.common.terminal import Terminal, four_parts
from cbsurgeon.errors import InputFileError
from cbsurgeon.escapes import valid_json, visible, visible_in
from tests.report import documents

TITLE = "\x1b]0;owned\x07"
C1 = "\x9b2J"
REVERSED = "\u202egpj.exe\u202c"
HOSTILE = f"blocks{TITLE}{C1}{REVERSED}"


def harmless(text: str) -> bool:
    """Judged by the Unicode database, apart from our list: no control character but newline and tab, no surrogate, no
    character that changes the direction of what follows.
    """
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return all(
        (unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") or one in "\n\t")
        and unicodedata.bidirectional(one) not in directions
        for one in text
    )


@given(st.text(alphabet=st.characters(), max_size=40) | st.sampled_from([HOSTILE, "\udcff", "\ud800"]))
@settings(max_examples=200, deadline=None)
def test_visible_text_is_harmless_and_plain_text_is_kept(text: str) -> None:
    assert harmless(visible(text))
    if harmless(text) and "\r" not in text:
        marks = {"\u061c", "\u200e", "\u200f"}
        assert visible(text) == text or marks & set(text)


def test_tables_and_errors_show_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    document = {**documents.insertion(), "layers": HOSTILE, "output": HOSTILE}
    terminal = Terminal(wide=100)
    terminal.show(document)
    terminal.warn(HOSTILE)
    terminal.fail(InputFileError(HOSTILE, code="CB-ST-01", where=HOSTILE, why=HOSTILE, do=HOSTILE))
    shown = capsys.readouterr()
    assert harmless(shown.out) and harmless(shown.err)
    assert "\\x1b]0;owned" in shown.out + shown.err and "\\u202e" in shown.err


def test_a_document_keeps_its_shape() -> None:
    assert visible_in({"a\x1b": ["b\x9b", 1, None, True]}) == {"a\\x1b": ["b\\x9b", 1, None, True]}


def test_json_holds_what_json_cannot() -> None:
    document = {"name": "a\udcffb\ud800", "value": float("nan"), "bound": [float("inf"), 1.5]}
    made = json.loads(json.dumps(valid_json(document), allow_nan=False).encode("utf-8"))
    assert made == {"name": "a\\xffb\\ud800", "value": None, "bound": [None, 1.5]}


def test_an_error_without_text_in_a_part_is_printed() -> None:
    assert "error: x" in four_parts(InputFileError("x", code="CB-ST-01", where="\n"), False, None)


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are not UTF-8 as Linux has them")
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_a_file_name_that_is_not_utf8(tmp_path: Path, flags: list[str]) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    Path(os.fsdecode(name)).write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    command = [sys.executable.encode(), b"-m", b"cbsurgeon", b"inspect", name, *(flag.encode() for flag in flags)]
    done = subprocess.run(command, capture_output=True, timeout=120, env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 2, done.stderr
    assert b"\\xff\\xfe.safetensors" in done.stderr
    if flags:
        assert "\\xff\\xfe" in json.loads(done.stdout)["where"]


def test_a_closed_stdout_is_no_fault() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m cbsurgeon explain CB-ST-01 >&-"], capture_output=True, timeout=120
    )
    assert done.returncode in (0, 1), done.stderr
    assert b"Traceback" not in done.stderr and b"CB-INTERNAL" not in done.stderr


def test_an_ascii_stream_gets_escapes() -> None:
    code = "from cbsurgeon.cli import main; raise SystemExit(main(['inspect', 'Ω.safetensors', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2, done.stderr
    assert "Ω" in json.loads(done.stdout)["where"]
