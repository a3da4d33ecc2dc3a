"""The command line's contract that needs no model: exit codes, the form of errors, help, streams."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cbsurgeon.cli import entry
from cbsurgeon.cli.common.terminal import Terminal, four_parts
from cbsurgeon.cli.group import VERBS
from cbsurgeon.errors import CBSurgeonError, MissingPackage
from tests.cli.running import run
from tests.report import documents


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["inspekt"], "CB-CLI-01", "did you mean inspect?"),
        (["ship", "--layer", "upper"], "CB-CLI-01", "did you mean --layers?"),
        (["--helpp"], "CB-CLI-01", "did you mean --help?"),
        (["insert", "a", "b"], "CB-CLI-03", "cbsurgeon insert"),
        (["insert"], "CB-CLI-02", "REF is missing"),
        (["ship", "a"], "CB-CLI-02", "--output is missing"),
        (["insert", "a", "--pos", "ende"], "CB-CLI-02", "front, mid, end"),
        (["export", "a", "-o", "b.onnx", "--opset", "x"], "CB-CLI-02", "--opset"),
        (["export", "a", "-o", "b.engine", "--batch", "8,1,64"], "CB-CLI-06", "ascending order"),
        (["verify", "a", "b", "--batches", "1,zero"], "CB-CLI-06", "--batches 1,zero"),
        (["verify", "a", "b", "--batches", "0"], "CB-CLI-06", "whole numbers from 1"),
        (["bench", "a", "b", "--budget", "soon"], "CB-CLI-06", "--budget 60s"),
        (["bench", "a", "b", "--claim", "1"], "CB-CLI-06", "--claim 1%"),
        (["inspect", "a", "--model-option", "depth"], "CB-CLI-06", "KEY=VALUE"),
        (["insert", "a", "--recipe", "r.json", "--layers", "all"], "CB-CLI-07", "--layers"),
        (["report"], "CB-CLI-02", "FILE.json"),
    ],
)
def test_a_wrong_command_is_answered_in_four_parts(words: list[str], code: str, said: str) -> None:
    outcome = run(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.match(rf"error: .+ \[{code}\]\n  where  ", outcome.err)
    assert said in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "words", [["inspekt", "--json"], ["ship", "--json"], ["bench", "a", "b", "--claim", "1", "--json"]]
)
def test_an_error_is_one_json_document_too(words: list[str]) -> None:
    outcome = run(*words)
    assert outcome.document["schema"] == "cbsurgeon.error/1"
    assert outcome.document["exit_code"] == outcome.code == 2
    assert set(outcome.document) == {"schema", "code", "what", "where", "why", "do", "more", "exit_code"}


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_defaults_and_examples_that_parse(verb: str) -> None:
    outcome = run(verb, "--help")
    assert outcome.code == 0 and outcome.err == ""
    examples = re.findall(rf"^ +cbsurgeon ({verb} .*)$", outcome.out, re.MULTILINE)
    assert 2 <= len(examples) <= 3
    for option in ("--json", "--quiet", "--verbose", "--debug"):
        assert option in outcome.out
    for example in examples:
        words = example.partition(" > ")[0].split()
        assert not {word for word in words if word.startswith("-")} - set(re.findall(r"(?<!\S)--?[\w-]+", outcome.out))
    assert re.search(r"--\w+_\w+", outcome.out) is None, "options are kebab-case"


def test_no_command_prints_help_and_is_a_wrong_command() -> None:
    outcome = run()
    assert outcome.code == 2 and "cbsurgeon --help" in outcome.out


def test_version() -> None:
    from cbsurgeon import __version__

    assert run("--version").out == f"cbsurgeon {__version__}\n"


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry.cli, "main", fail)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MissingPackage("no", code="CB-MISSING-01"), 3, "[CB-MISSING-01]"),
        (RuntimeError("a\nb"), 70, "RuntimeError: a b"),
        (MemoryError(), 2, "out of memory"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied"),
    ],
)
def test_every_error_of_a_verb_is_one_message(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(error, monkeypatch)
    outcome = run()
    assert outcome.code == code
    assert said in outcome.err and "Traceback" not in outcome.err


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(RuntimeError("deep"), monkeypatch)
    outcome = run("--debug")
    assert "Traceback" in outcome.err and "[CB-INTERNAL-01]" in outcome.err


def test_an_error_after_a_result_adds_no_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(json=True)
    terminal.show({"schema": "cbsurgeon.verify/1", "ok": False})
    terminal.fail(CBSurgeonError("no", code="CB-VERIFY-01"))
    assert json.loads(capsys.readouterr().out) == {"schema": "cbsurgeon.verify/1", "ok": False}


def test_an_error_wraps_to_the_terminal_and_not_into_a_pipe() -> None:
    error = CBSurgeonError("what", code="CB-X-01", where="here", why="because " * 30, do="this")
    assert max(map(len, four_parts(error, False, 60).splitlines())) <= 78
    assert len(four_parts(error, False, None).splitlines()) == 5


def test_colour_follows_the_terminal_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from cbsurgeon.cli.common.terminal import colored

    class Tty:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colored(Tty())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colored(Tty())  # type: ignore[arg-type]


def test_progress_without_a_terminal_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, expected in ((False, ""), (True, "capture\n")):
        with Terminal(verbose=verbose).working() as progress:
            progress("capture")
            print("a library says something")
        streams = capsys.readouterr()
        assert streams.out == ""
        assert streams.err.partition("] ")[2].partition("a library")[0] == expected


def report_file(folder: Path) -> Path:
    file = folder / "ship.json"
    file.write_text(json.dumps(documents.shipment()))
    return file


def test_report_prints_tables_and_json(tmp_path: Path) -> None:
    file = report_file(tmp_path)
    assert "inserted cb at the end of 6 blocks: 6,7,8,9,10,11" in run("report", file).out
    combined = run("report", file, "--json").document
    assert combined["schema"] == "cbsurgeon.report/1" and len(combined["documents"]) == 9


def test_report_writes_html_once(tmp_path: Path) -> None:
    file, page = report_file(tmp_path), tmp_path / "out.html"
    assert run("report", file, "-o", page).out == f"{page}\n"
    written = page.read_bytes()
    refused = run("report", file, "-o", page)
    assert refused.code == 2 and "[CB-OUT-01]" in refused.err and page.read_bytes() == written
    assert run("report", file, "-o", page, "--force").code == 0


def test_report_refuses_a_document_with_wrong_fields(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text('{"schema": "cbsurgeon.audit/1", "params": 3, "flops": [], "bytes": null}')
    for words in (["report", file], ["report", file, "-o", tmp_path / "x.html"]):
        outcome = run(*words)
        assert outcome.code == 2 and "[CB-REPORT-02]" in outcome.err
    assert not (tmp_path / "x.html").exists()


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    """As in ``cbsurgeon report x.json | head -1``."""
    command = f"{sys.executable} -m cbsurgeon report {report_file(tmp_path)} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{" and done.stderr == ""


def test_interrupting_a_verb_is_one_line_and_130(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\ndef model():\n    sys.stderr.write('started\\n'); sys.stderr.flush(); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cbsurgeon", "inspect", "mod:slow:model"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(entry.__file__).parents[2])},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and process.stdout is not None
    assert process.stderr.readline() == "started\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=30)
    assert code == 130
    assert process.stdout.read() == ""
    assert re.fullmatch(r"\n?interrupted.*\n", process.stderr.read())


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch uses GNU OpenMP, which prints its settings, on Linux only")
@pytest.mark.parametrize(
    ("verb", "chosen", "spins"), [("verify", None, "0"), ("verify", "ACTIVE", "[1-9]"), ("bench", None, "[1-9]")]
)
def test_threads_of_pytorch_sleep_while_they_wait_unless_it_is_timed(verb: str, chosen: str | None, spins: str) -> None:
    """GNU OpenMP reports how many times a thread looks again before it sleeps."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment |= {"OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(Path(entry.__file__).parents[2])}
    if chosen is not None:
        environment["OMP_WAIT_POLICY"] = chosen
    command = [sys.executable, "-m", "cbsurgeon", verb, "timm:nosuch", "timm:nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2, done.stderr
    assert re.search(rf"GOMP_SPINCOUNT = '{spins}", done.stderr), done.stderr
