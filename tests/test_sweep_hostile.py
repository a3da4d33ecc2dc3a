"""Sweeps whose files are damaged, whose commands misbehave, and that are interrupted at any moment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cbsurgeon as cbs
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.options import SweepOptions
from cbsurgeon.sweeps import cells, measure, storage, study, trials
from cbsurgeon.sweeps.command import RunFailed, run_command
from cbsurgeon.sweeps.runs import Runs
from tests.test_sweep import command, encoder, started

CELL = "cb-end-mlp-all"


def swept(tmp_path: Path, script: str, name: str = "s", **how: Any) -> Any:
    """A sweep of one cell and the baseline, with the script as its command."""
    how = {"layers": ("all",), "metric": "accuracy", "retries": 0, "run": command(tmp_path, script), **how}
    return cbs.sweep(encoder(), tmp_path / name, **how)


def in_a_process(tmp_path: Path, script: str, more: str = "", **how: Any) -> subprocess.Popen[str]:
    """The same sweep in another process, which starts after a line on its standard input if that is a pipe."""
    code = f"""
import sys
import cbsurgeon as cbs
from cbsurgeon.sweeps import storage
from tests.test_sweep import encoder
storage.HEARTBEAT, storage.GRACE = 1, 2
model, run = encoder(), {command(tmp_path, script)!r}
sys.stdin.readline()
cbs.sweep(model, {str(tmp_path / "s")!r}, layers=("all",), metric="accuracy", run=run, {more})
"""
    how = {"stdin": subprocess.DEVNULL, "text": True, "cwd": Path(__file__).parents[1], **how}
    return subprocess.Popen([sys.executable, "-c", code], **how)


GOOD = """
import sys
from pathlib import Path
out, log = Path(sys.argv[3]), Path(sys.argv[4])
with log.open("a") as file:
    file.write(f"{out.parent.name} {sys.argv[2]}\\n")
(out / "metrics.json").write_text('{"accuracy": 1}')
"""


@pytest.mark.parametrize(
    "words",
    [
        "",
        "  ",
        "x {out.parent}",
        "x {out.__class__}",
        "x {seed[0]}",
        "x {seed:>999999999}",
        "x {out!r}",
        "x {}",
        "x\0y",
    ],
)
def test_only_the_four_placeholders_are_filled_in(tmp_path: Path, words: str) -> None:
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-05"):
        cbs.sweep(encoder(), tmp_path / "s", run=words, metric="a")
    assert not (tmp_path / "s").exists()


WRITES = {
    "NaN": "file.write_text('{\"accuracy\": NaN}')",
    "beyond float64": "file.write_text('{\"accuracy\": 1e400}')",
    "squares overflow": "file.write_text('{\"accuracy\": -1e300}')",
    "a text": 'file.write_text(\'{"accuracy": "1"}\')',
    "true": "file.write_text('{\"accuracy\": true}')",
    "many names": "file.write_text('{%s}' % ','.join(f'\"key {n}\": 1' for n in range(20000)))",
    "no JSON": "file.write_bytes(bytes(range(256)))",
    "nested": "file.write_text('[' * 100000)",
    "a folder": "file.mkdir()",
    "a pipe": "os.mkfifo(file)",
    "an endless device": "file.symlink_to('/dev/zero')",
    "64 GiB": "os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), 1 << 36)",
    "no folder": "import shutil; shutil.rmtree(file.parent)",
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("write", WRITES)
def test_what_a_command_leaves_is_a_result_or_a_failed_run(tmp_path: Path, write: str) -> None:
    code = f"import os, sys\nfrom pathlib import Path\nfile = Path(sys.argv[1], 'metrics.json')\n{WRITES[write]}"
    for _ in range(2):  # the second attempt finds what the first one left
        with pytest.raises(RunFailed) as raised:
            run_command([sys.executable, "-c", code, str(tmp_path / "out")], tmp_path / "out", "accuracy")
        assert 0 < len(str(raised.value)) < 1000


def test_a_program_that_does_not_exist_is_a_failed_run(tmp_path: Path) -> None:
    for words in (["/nowhere/program"], [str(tmp_path)], ["a\0b"]):
        with pytest.raises(RunFailed):
            run_command(words, tmp_path / "out", "accuracy")


def test_the_largest_metrics_give_a_table_that_json_can_hold(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
out = Path(sys.argv[3])
value = "1e100" if out.parent.name == "baseline" else "-1e100"
(out / "metrics.json").write_text('{"accuracy": %s}' % value)
"""
    table = swept(tmp_path, script, seeds=(0, 1))
    json.dumps(table.to_dict(), allow_nan=False)
    assert table.summary(CELL)["difference"]["value"] == -2e100


def rows(file: Path, statement: str) -> None:
    import sqlite3

    with sqlite3.connect(file) as opened:
        opened.execute(statement)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "other bytes": lambda file: file.write_bytes(b"garbage" * 1000),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    "bits flipped": lambda file: file.write_bytes(bytes(b ^ (n % 97 == 0) for n, b in enumerate(file.read_bytes()))),
    "no JSON in a row": lambda file: rows(file, "update trial_system_attributes set value_json = 'x'"),
    "another type in a row": lambda file: rows(file, "update trial_system_attributes set value_json = '[[1]]'"),
    "an unknown state": lambda file: rows(file, "update trials set state = 'DONE'"),
    "no table": lambda file: rows(file, "drop table trial_values"),
    "an infinite result": lambda file: rows(file, "update trial_values set value = null, value_type = 'INF_POS'"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("finished")
    assert swept(folder, GOOD)
    return folder / "s"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_storage_is_named_and_the_suggested_command_helps(
    tmp_path: Path, finished: Path, damage: str
) -> None:
    folder = tmp_path / "a folder"
    shutil.copytree(finished, folder)
    runs = replace(Runs.read(folder), storage=storage.file_storage(folder))
    runs.write(folder)
    assert [one.value for one in trials.results(runs)] == [1.0, 1.0]
    DAMAGES[damage](folder / "runs.db")

    def again() -> list[float | None]:
        study.work(folder)
        return [one.value for one in trials.results(runs)]

    with pytest.raises(CBSurgeonError, match="CB-SWEEP-03") as raised:
        again()
    assert str(tmp_path) in raised.value.where
    subprocess.run(shlex.split(raised.value.do), check=True)
    assert again() == [1.0, 1.0]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_storage_in_memory_is_refused(tmp_path: Path, url: str) -> None:
    """Every worker and the table would open an empty database of their own."""
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-03"):
        swept(tmp_path, GOOD, storage=url)
    assert not (tmp_path / "log").exists()


INTERRUPTS = """
import os, signal, subprocess, sys, time
from pathlib import Path
out, log = Path(sys.argv[3]), Path(sys.argv[4])
if not (log.parent / "tried").exists():
    (log.parent / "tried").touch()
    child = subprocess.Popen(["sleep", "100"])
    (log.parent / "child").write_text(str(child.pid))
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(100)
with log.open("a") as file:
    file.write(f"{out.parent.name} {sys.argv[2]}\\n")
(out / "metrics.json").write_text('{"accuracy": 1}')
"""


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.wide
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes from /proc")
def test_ctrl_c_ends_every_process_of_the_command_and_its_run_is_repeated(tmp_path: Path) -> None:
    """Even with --retries 0: the interruption is no failure of the run."""
    assert in_a_process(tmp_path, INTERRUPTS, "retries=0").wait(timeout=100) != 0
    assert not alive(int((tmp_path / "child").read_text())) and not (tmp_path / "log").exists()
    table = swept(tmp_path, INTERRUPTS)
    assert table and table.left == 0 and started(tmp_path) == ["baseline 0", f"{CELL} 0"]


def test_an_attempt_without_a_heartbeat_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed right after it chose a run leaves a trial that runs for ever."""
    monkeypatch.setattr(storage, "GRACE", 1)
    swept(tmp_path, GOOD, budget=1e-9)
    runs = Runs.read(tmp_path / "s")
    with storage.quietly():
        storage.open_study(runs).ask()
    assert trials.run_counts(storage.open_study(runs), runs).running == 1
    table = swept(tmp_path, GOOD)
    assert table and table.left == 0 and started(tmp_path) == ["baseline 0", f"{CELL} 0"]


@pytest.mark.wide
def test_failed_runs_are_repeated_with_more_retries(tmp_path: Path) -> None:
    """The explanation of CB-SWEEP-07 suggests it; and a worker killed before it queued a run again loses nothing."""
    once = GOOD.replace("(out /", "seen = out / 'seen'\nif not seen.exists():\n    sys.exit(seen.touch() or 1)\n(out /")
    assert not swept(tmp_path, once) and len(started(tmp_path)) == 2
    assert not swept(tmp_path, once) and len(started(tmp_path)) == 2
    table = swept(tmp_path, once, retries=1)
    assert table and {one.attempts for one in table.results} == {2} and len(started(tmp_path)) == 4


LEFT = """
import os, sys, time
from pathlib import Path
out, log = Path(sys.argv[3]), Path(sys.argv[4])
with log.open("a") as file:
    file.write(f"{os.getpid()} {time.monotonic()}\\n")
for _ in range(600 if len(log.read_text().splitlines()) == 1 else 1):
    time.sleep(0.05)
    (out / "last").write_text(str(os.getpid()))
(out / "metrics.json").write_text('{"accuracy": 1}')
"""


@pytest.mark.wide
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes from /proc")
def test_a_command_that_outlives_a_killed_sweep_ends_before_its_run_is_repeated(tmp_path: Path) -> None:
    """Two processes would write into one folder otherwise."""
    process = in_a_process(tmp_path, LEFT)
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = int((tmp_path / "log").read_text().split()[0])
    assert alive(first)
    assert in_a_process(tmp_path, LEFT).wait(timeout=100) == 0
    assert not alive(first)
    assert len(started(tmp_path)) == 3  # the killed attempt, its repetition, the other run


def test_a_sweep_continues_after_a_kill_before_its_first_file(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / ".identity.json.0123456789abcdef.tmp.json").write_text('{"sche')
    assert swept(tmp_path, GOOD)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".identity.json.backup").touch()
    with pytest.raises(CBSurgeonError, match="CB-SWEEP-09"):
        swept(tmp_path, GOOD, "t")


@pytest.mark.wide
def test_two_processes_start_one_sweep_at_the_same_moment(tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [in_a_process(tmp_path, GOOD, "seeds=(0, 1)", **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        said = process.communicate(timeout=100)[1]
        assert process.returncode == 0, said
    assert len(started(tmp_path)) == len(set(started(tmp_path))) == 4


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


CHANGES: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda file: file.write_text("x"),
    "a text for a number": lambda file: edit(file, lambda held: held["row"].update(params="many")),
    "a number for a list": lambda file: edit(file, lambda held: held["row"].update(blocks=7)),
    "a number for an object": lambda file: edit(file, lambda held: held["row"].update(share=3)),
    "no recipe": lambda file: edit(file, lambda held: held.update(recipe=None)),
    "fewer sites": lambda file: edit(file, lambda held: held["recipe"].update(sites=held["recipe"]["sites"][:1])),
    "another operator": lambda file: edit(file, lambda held: held["recipe"].update(op="cb_gate")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_cell_is_measured_again(tmp_path: Path, finished: Path, change: str) -> None:
    file = tmp_path / "cell.json"
    file.write_text((finished / f"cells/{CELL}.json").read_text())
    how = SweepOptions(layers=("all",))
    measured, (cell,) = measure(encoder(), how), cells(how)
    try:
        expected = measured.cell(cell)
        assert measured.read(cell, file) == expected and file.exists()
        CHANGES[change](file)
        assert measured.read(cell, file) == expected
        assert not file.exists(), "it is written again"
    finally:
        measured.close()


@pytest.mark.wide
@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_a_terminated_sweep_with_several_workers_leaves_no_process(tmp_path: Path) -> None:
    script = "import os, sys, time\nopen(sys.argv[4], 'a').write(f'{os.getpid()}\\n')\ntime.sleep(100)"
    factory = tmp_path / "factory.py"
    factory.write_text("from tests.test_sweep import encoder\n")
    words = ["sweep", f"mod:{factory}:encoder", "-o", str(tmp_path / "s"), "--layers", "all", "--metric", "accuracy"]
    words += ["--workers", "2", "--run", command(tmp_path, script)]
    process = subprocess.Popen([sys.executable, "-m", "cbsurgeon", *words], cwd=Path(__file__).parents[1])
    while not (tmp_path / "log").exists() or len(started(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not any(alive(int(one)) for one in started(tmp_path))
