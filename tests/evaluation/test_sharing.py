"""Several processes give the same result as one, and a killed run resumes to the same result."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon import cli
from cbsurgeon.evaluation import Evaluation
from cbsurgeon.evaluation.metrics import metrics_of
from cbsurgeon.evaluation.records import resuming
from cbsurgeon.evaluation.side import Side
from tests.evaluation import digits

ROOT = Path(__file__).parents[2]
HERE: dict[str, Any] = {"workers": 0, "batch": 16, "robust": ("noise=30",), "seeds": 2, "metrics": ("top1", "nll")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = digits.save(tmp_path_factory.mktemp("digits"), 203)
    (root / "4" / "bad.png").write_bytes(b"")
    return root


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "cbsurgeon" / "evaluate"


def figures(found: Evaluation) -> dict[str, Any]:
    """The result without what depends on time."""
    document = json.loads(found.to_json())
    for name in ("seconds", "images_per_second", "environment", "resumed"):
        document.pop(name)
    return document


def in_child(work: Callable[[], None]) -> int:
    """Run something in a fork, which needs no import again; its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


def shared(data: Path, tmp_path: Path, count: int, **how: Any) -> list[dict[str, Any]]:
    """What each of ``count`` processes finds, which meet as torchrun's do."""
    metrics_of("classification", (), 10)[0].record(torch.zeros(2, 10), torch.zeros(2, dtype=torch.int64))
    port = free_port()

    def work(rank: int) -> None:
        names = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(names)
        found = cbs.evaluate(digits.trained(), digits.trained(digits.HalfBlind), data=data, **{**HERE, **how})
        assert found.first == (rank == 0)
        (tmp_path / f"{count}-{rank}.json").write_text(json.dumps(figures(found)))

    children = [in_child(lambda rank=rank: work(rank)) for rank in range(count)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count
    return [json.loads((tmp_path / f"{count}-{rank}.json").read_text()) for rank in range(count)]


def test_one_two_and_four_processes_find_the_same_to_the_last_digit(data: Path, tmp_path: Path) -> None:
    alone = shared(data, tmp_path, 1)[0]
    assert alone["samples"] == 203 and alone["skipped"] == 1 and alone["flips"] > 10
    for count in (2, 4):
        assert all(found == alone for found in shared(data, tmp_path, count))


def test_more_processes_than_batches(data: Path, tmp_path: Path) -> None:
    found = shared(data, tmp_path, 3, batch=128)
    assert found[0] == found[1] == found[2] and found[0]["samples"] == 203


def test_an_error_in_one_process_is_raised_in_all(data: Path, tmp_path: Path) -> None:
    """With ``strict``, one process reads the damaged image and fails; the others must not wait for it."""
    port = free_port()

    def work(rank: int) -> None:
        names = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(names)
        with pytest.raises(cbs.CBSurgeonError) as caught:
            cbs.evaluate(digits.trained(), data=data, strict=True, **HERE)
        assert caught.value.code == "CB-DATA-11"

    children = [in_child(lambda rank=rank: work(rank)) for rank in range(2)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


CALLS = 0
FATAL = 0


def deadly(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A metric that kills the process at a certain call."""
    global CALLS
    CALLS += 1
    if FATAL == CALLS:
        os.kill(os.getpid(), signal.SIGKILL)
    return outputs.gather(1, targets[:, None])[:, 0]


def evaluated(data: Path, **how: Any) -> Evaluation:
    names = ("top1", "ece", f"mod:{__name__}:deadly")
    how = {**HERE, "metrics": names, "robust": (), **how}
    return cbs.evaluate(digits.trained(), digits.trained(digits.HalfBlind), data=data, **how)


def test_a_killed_run_resumes_to_the_same_result(data: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "EVERY", 0.0)
    whole = evaluated(data)
    assert not list(state.glob("*")), "an evaluation that ended keeps nothing"

    def killed() -> None:
        global CALLS, FATAL
        CALLS, FATAL = 0, 15
        evaluated(data)

    status = os.waitpid(in_child(killed), 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(list(state.glob("*/part-*.safetensors"))) > 3
    found = evaluated(data, resume=True)
    assert figures(found) == figures(whole)
    assert 60 <= found.resumed < 150 and not list(state.glob("*"))


def test_another_model_or_option_does_not_continue(data: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "EVERY", 0.0)

    def killed() -> None:
        global CALLS, FATAL
        CALLS, FATAL = 0, 12
        evaluated(data)

    os.waitpid(in_child(killed), 0)
    other = cbs.evaluate(digits.trained(), data=data, resume=True, **HERE)
    assert other.resumed == 0 and list(state.glob("*"))
    assert evaluated(data).resumed == 0 and not list(state.glob("*")), "without resume it starts anew"


def test_a_damaged_state_is_read_again_from_the_dataset(
    data: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "EVERY", 0.0)
    whole = evaluated(data)

    def killed() -> None:
        global CALLS, FATAL
        CALLS, FATAL = 0, 15
        evaluated(data)

    os.waitpid(in_child(killed), 0)
    parts = sorted(state.glob("*/part-*.safetensors"))
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    parts[1].write_bytes(b"")
    assert figures(evaluated(data, resume=True)) == figures(whole)


@pytest.mark.parametrize("writable", [True, False])
def test_an_interruption_saves_what_is_finished_and_says_how_much(
    data: Path, state: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """The files of an interruption are counted by another reader: its images are those that the next run skips."""
    whole = evaluated(data)
    own, calls = Side.run, 0

    def run(self: Side, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return own(self, batch)

    if not writable:
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text("a file where the folder would be")
    monkeypatch.setattr(Side, "run", run)
    with pytest.raises(KeyboardInterrupt) as stopped:
        evaluated(data)
    monkeypatch.setattr(Side, "run", own)
    (said,) = stopped.value.__notes__
    if not writable:
        assert said.startswith("no image is saved, because") and "cannot be written" in said
        state.unlink()
        return
    found = evaluated(data, resume=True)
    assert said == f"{found.resumed} images are saved; the same command with --resume continues"
    assert found.resumed > 0 and figures(found) == figures(whole)


def test_the_command_prints_what_is_saved_and_nothing_else(
    data: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: Side, batch: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Side, "all_outputs", run)
    words = ["evaluate", "mod:tests.evaluation.digits:network", "--data", str(data), "--workers", "0"]
    assert cli.main(words) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "interrupted; no image is saved"


@pytest.mark.slow
def test_torchrun_shows_one_result(data: Path) -> None:
    words = [
        "evaluate",
        "mod:tests.evaluation.digits:network",
        "mod:tests.evaluation.digits:worse",
        "--data",
        str(data),
    ]
    results = []
    for count in (1, 2):
        run = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(count),
            "--master-port",
            free_port(),
        ]
        done = subprocess.run(
            [*run, "-m", "cbsurgeon", *words, "--workers", "0", "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=ROOT,
        )
        assert done.returncode == 1, done.stderr
        document = json.loads(done.stdout)
        results.append((document["metrics"], document["difference"], document["flipped"]))
    assert results[0] == results[1]
