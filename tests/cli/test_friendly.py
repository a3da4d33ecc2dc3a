"""First contact: the start text, completion, progress, and the message after an interruption."""

from __future__ import annotations

import gc
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class

from cbsurgeon.cli import main
from cbsurgeon.cli.common import completion
from cbsurgeon.cli.common.terminal import Left, Terminal, spoken
from cbsurgeon.cli.entry import NEW_OBJECTS
from cbsurgeon.cli.group import VERBS, cli
from cbsurgeon.cli.group import cli as group
from cbsurgeon.vocabulary import COMPLETION_VARIABLE
from tests.cli.running import run

ROOT = Path(__file__).parents[2]


def test_without_arguments_three_commands_to_start_with() -> None:
    outcome = run()
    commands = [line.strip() for line in outcome.out.splitlines() if line.startswith("  cbsurgeon ")]
    assert outcome.code == 2 and len(commands) == 3
    for command in commands:
        _, verb, *words = shlex.split(command)
        found = group.get_command(None, verb)  # type: ignore[arg-type]  # the group does not look at it
        assert found is not None
        found.make_context(verb, words, obj=Terminal())  # every word is one the verb takes


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import timm

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return timm.list_models()


def completed(shell: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the completions for these words, the last of which is incomplete."""
    completion.register()
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words) - 1))
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, "cbsurgeon", COMPLETION_VARIABLE).complete().split("\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_names_of_the_installed_timm_are_completed(
    shell: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = "deit3_small"
    expected = [name for name in names if name.startswith(begun)]
    assert expected
    # Bash gives the words as it splits them, at colons too, and replaces what follows the last one.
    words = ["timm", ":", begun] if shell == "bash" else [f"timm:{begun}"]
    told = completed(shell, "cbsurgeon", "inspect", *words, monkeypatch=monkeypatch)
    for name in expected:
        assert any(line.endswith(name) for line in told)
    assert sum("deit3" in line for line in told) == len(expected)
    assert all(("timm:" in line) == (shell != "bash") for line in told if "deit3" in line)
    kinds = completed(shell, "cbsurgeon", "verify", "a.pt", "ti", monkeypatch=monkeypatch)
    assert any(line.endswith("timm:") for line in kinds)
    verbs = completed(shell, "cbsurgeon", "in", monkeypatch=monkeypatch)
    assert all(any(verb in line for line in verbs) for verb in ("inspect", "insert"))


def test_names_are_listed_once(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CBSURGEON_NO_CACHE")
    assert completion._names("timm") == names
    monkeypatch.setattr(completion, "LISTED", {"timm": "no.such.module"})
    assert completion._names("timm") == names


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_takes_the_script() -> None:
    environment = {**os.environ, COMPLETION_VARIABLE: "bash_source"}
    script = subprocess.run(
        [sys.executable, "-m", "cbsurgeon"], env=environment, capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p cbsurgeon"], capture_output=True, text=True, check=True
    )
    assert "cbsurgeon" in done.stdout


class Screen(io.StringIO):
    """A terminal as far as the program can tell."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "codes", "colors"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_terminals_get_what_they_can_show(
    variables: dict[str, str], codes: bool, colors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Terminal().working() as progress:
        progress("one")
        progress("two")
    said = screen.getvalue()
    assert "one" in said and "two" in said
    assert ("\x1b[" in said) == codes
    assert ("\x1b[32m" in said) == colors
    screen.truncate(0)
    with Terminal(quiet=True).working() as progress:
        progress("three")
    assert "three" not in screen.getvalue()


def test_the_time_left_follows_from_what_is_done() -> None:
    clock = Left()
    assert clock.left("cell 1 of 40: cb-end-all", now=100.0) == ""
    assert clock.left("cell 11 of 40: cb-end-upper", now=120.0) == ", 60 s left"  # 10 of 40 in 20 s
    assert clock.left("build: layers, 0 %", now=200.0) == ""
    assert clock.left("build: layers, 25 %", now=210.0) == ", 30 s left"
    assert (
        clock.left("runs: 3 of 20 done, 2 under way", now=300.0) == ""
    )  # begun before: only the pace from here counts
    assert clock.left("runs: 4 of 20 done, 2 under way", now=310.0) == ", 3 min left"  # 16 more at 10 s each
    assert clock.left("evaluate: 5 of 9 images, 1 images/s, 4 s left", now=320.0) == ""
    assert clock.left("write the report", now=400.0) == ""
    assert [spoken(seconds) for seconds in (40, 300, 7200)] == ["40 s", "5 min", "2.0 h"]


SWEEP = """
import sys, time
from cbsurgeon import verbs
from cbsurgeon.cli import main
def slow(*arguments, **keywords):
    print("ready", file=sys.__stdout__, flush=True)
    time.sleep(60)
verbs.load = slow
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_names_the_saved_results(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SWEEP, "sweep", "timm:deit_tiny_patch16_224", "-o", str(tmp_path / "grid")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = f"finished cells and runs are saved in {tmp_path / 'grid'}; the same command continues"
    assert said.strip() == f"interrupted; {kept}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_option_once_and_the_model_s_under_their_heading(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    text = run(verb, "--help").out
    listed = text[re.search(r"^\w.*:\n  -", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
    options = [one for one in command.params if isinstance(one, click.Option)]
    for option in options:
        found = re.findall(rf"^  (?:-+\w+, )?{re.escape(max(option.opts, key=len))}(?![\w-])", listed, re.MULTILINE)
        assert len(found) == 1, option.opts
    headings = re.findall(r"^(\w.*):$", listed, re.MULTILINE)
    assert headings[-1] == "What is printed"
    loading = listed.partition("How the model is loaded:\n")[2].partition("\n\n")[0]
    assert ("  --arch REF" in loading) is any("--arch" in option.opts for option in options)


def test_every_verb_is_in_the_help_of_the_group() -> None:
    listed = run("--help").out
    assert all(verb in listed for verb in VERBS)
    assert all(f"{shell}_source" in listed for shell in ("bash", "zsh", "fish"))


def test_the_garbage_collector_runs_rarely_only_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = gc.get_threshold(), list[tuple[int, ...]]()
    monkeypatch.setattr(group, "main", lambda **_: during.append(gc.get_threshold()) or 0)
    assert main(["explain"]) == 0
    assert during == [(NEW_OBJECTS, *before[1:])] and before[0] < NEW_OBJECTS
    assert gc.get_threshold() == before
    monkeypatch.setattr(group, "main", lambda **_: 1 / 0)
    assert main(["explain"]) == 70 and gc.get_threshold() == before
