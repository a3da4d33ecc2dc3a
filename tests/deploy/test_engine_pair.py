"""An engine and its manifest are replaced so that a process killed at any moment leaves a pair that can be used."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cbsurgeon.deploy import manifest
from cbsurgeon.deploy.stated import preprocessing_in
from cbsurgeon.deploy.tensorrt import building
from cbsurgeon.errors import InputFileError
from cbsurgeon.verbs.results import read_inserted

OLD, NEW = b"old engine" * 100, b"new engine" * 90
STEPS = {"open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir"}
"""What Python reports before it changes a file system; the state before each of them is tested."""
MOST = 200
"""More steps than one replacement has: the loop over them ends."""


def facts(name: str) -> dict[str, object]:
    """What an engine was built from, with a preprocessing and recipes that can be read back."""
    return {"model": {"recipes": [], "sites": [], "dtype": name}}


def write(engine: Path, content: bytes, name: str) -> None:
    building._write(engine, memoryview(content), facts(name), engine.with_suffix(".onnx"), force=True)


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run an action in a process that is killed before one of its changes to the file system; return whether it was."""
    child = os.fork()
    if child == 0:
        left = step

        def watch(event: str, _: object) -> None:
            nonlocal left
            if event in STEPS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            action()
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it kills a fork")
@pytest.mark.parametrize("before", ["a pair", "a pair that a killed process left", "no manifest", "nothing"])
def test_a_pair_is_old_or_new_whenever_the_process_is_killed(before: str, tmp_path: Path) -> None:
    engine = tmp_path / "m.engine"
    beside, found = manifest.beside(engine), set()
    for step in range(MOST):
        for each in (engine, beside):
            each.unlink(missing_ok=True)
        if before != "nothing":
            write(engine, OLD, "old")
        if before == "no manifest":
            beside.unlink()
        if before == "a pair that a killed process left":
            write(tmp_path / "n.engine", b"never in place", "never")
            manifest.bridge(tmp_path / "n.engine", engine)
        if not killed_at(step, lambda: write(engine, NEW, "new")):
            break
        if before == "nothing" and not engine.exists():
            found.add("none")
            continue
        content = engine.read_bytes()
        found.add({OLD: "old", NEW: "new"}[content])
        if (
            content == OLD and before == "no manifest"
        ):  # as before: run only with --trust, and nothing is known about it
            with pytest.raises(InputFileError, match="CB-ENGINE-05"):
                manifest.require_trusted(engine)
            assert manifest.require_trusted(engine, trust=True) == {}
            continue
        known = manifest.require_trusted(engine)
        assert known["model"]["dtype"] == ("old" if content == OLD else "new")
        assert known["engine"]["bytes"] == len(content)
        assert preprocessing_in(engine) is None and read_inserted(engine)["blocks"] == []
    else:
        raise AssertionError("it has no end")
    assert found == {"none" if before == "nothing" else "old", "new"}
    assert "replaced" not in json.loads(beside.read_text()) and engine.read_bytes() == NEW


def test_what_a_manifest_says_about_a_replaced_engine_is_not_trusted(tmp_path: Path) -> None:
    """The digest of another engine, with a manifest of one's own, does not make that engine trusted."""
    write(engine := tmp_path / "m.engine", OLD, "old")
    document = json.loads(manifest.beside(engine).read_text())
    engine.write_bytes(NEW)
    digest = manifest.sha256(engine)
    forged = {**document, "engine": {**document["engine"], "sha256": digest}}
    unsealed = {name: value for name, value in forged.items() if name != "seal"}
    nested = {**forged, "replaced": {"sha256": digest}}
    codes = {"05": (forged, unsealed, None, nested), "02": ([], 5, {"schema": "another/1"}, {**forged, "model": [1]})}
    for code, old in ((code, old) for code, all_ in codes.items() for old in all_):
        text = json.dumps({**document, "replaced": {"sha256": digest, "manifest": old}})
        manifest.beside(engine).write_text(text)
        with pytest.raises(InputFileError, match=f"CB-ENGINE-{code}"):
            manifest.require_trusted(engine)
    for wrong in (None, 3, [], {}, {"sha256": 5}, {"sha256": "0" * 64, "manifest": forged}):
        manifest.beside(engine).write_text(json.dumps({**document, "replaced": wrong}))
        with pytest.raises(InputFileError, match="CB-ENGINE-04"):
            manifest.require_trusted(engine, trust=True)


@pytest.mark.parametrize(
    "change",
    [
        {"model": [1]},
        {"model": None},
        {"model": {"dtype": 5}},
        {"package": [1]},
        {"package": {"name": ["x"]}},
        {"engine": "x"},
        {"engine": {"sha256": 5}},
    ],
    ids=str,
)
def test_a_manifest_whose_members_have_other_types_is_damaged(change: dict[str, object], tmp_path: Path) -> None:
    write(engine := tmp_path / "m.engine", OLD, "old")
    document = json.loads(manifest.beside(engine).read_text())
    manifest.beside(engine).write_text(json.dumps({**document, **change}))
    for call in (manifest.read, manifest.require_trusted, preprocessing_in, read_inserted):
        with pytest.raises(InputFileError, match="CB-ENGINE-02"):
            call(engine)
