"""The cache of inspections: the same result quickly, and never the result for another model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cbsurgeon.cli.common import cache, completion
from cbsurgeon.deploy import manifest
from cbsurgeon.options import Loading
from tests.cli.running import SMALL, Outcome, run

ROOT = Path(__file__).parents[2]
OPTIONS = [word for key, value in SMALL.items() for word in ("--model-option", f"{key}={value}")]
NAME = "timm:deit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(cache.SWITCH)
    return tmp_path / "cache" / "cbsurgeon" / "inspections"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import timm

    path = tmp_path / "w.pt"
    torch.save(timm.create_model(NAME.removeprefix("timm:"), **SMALL).state_dict(), path)
    return path


def inspected(*words: object, kept: bool, where: Path) -> Outcome:
    """An inspection that must or must not come from the cache."""
    outcome = run("inspect", *words, "-v")
    assert outcome.code == 0, outcome.err
    assert ("found in the cache" in outcome.err) == kept
    return outcome


def test_the_cached_result_equals_the_first_one(place: Path) -> None:
    for extra in ([], ["--json"], ["--why"]):
        fresh = run("inspect", NAME, *OPTIONS, *extra, "--no-cache")
        assert not place.exists() or extra
        if not extra:
            inspected(NAME, *OPTIONS, kept=False, where=place)
        again = inspected(NAME, *OPTIONS, *extra, kept=True, where=place)
        assert without_times(again.out) == without_times(fresh.out)
    assert len(list(place.iterdir())) == 1


def without_times(text: str) -> Any:
    if not text.startswith("{"):
        return [line for line in text.splitlines() if " s" not in line or "block" in line]
    document = json.loads(text)
    return {key: value for key, value in document.items() if key != "seconds"}


def test_a_cached_result_is_shown_without_importing_torch(place: Path) -> None:
    code = "import sys; from cbsurgeon.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "inspect", NAME, *OPTIONS]
    for expected in ("0 True\n", "0 False\n"):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout.endswith(expected), done.stdout


def test_another_content_another_option_or_another_source_is_another_entry(
    place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [weights, "--arch", NAME, *OPTIONS]
    inspected(*words, kept=False, where=place)
    inspected(*words, kept=True, where=place)
    inspected(*words, "--input", "3x64x64", kept=False, where=place)
    state = torch.load(weights, weights_only=True)
    state["head.bias"] += 1
    torch.save(state, weights)
    inspected(*words, kept=False, where=place)
    monkeypatch.setenv("TIMM_FUSED_ATTN", "0")
    inspected(*words, kept=False, where=place)
    keys = {cache.key_of(NAME, Loading())}
    monkeypatch.setattr(cache, "_source", lambda package: "changed")
    keys.add(cache.key_of(NAME, Loading()))
    monkeypatch.setattr(cache, "_version", lambda package: "changed")
    keys.add(cache.key_of(NAME, Loading()))
    assert len(keys) == 3 and None not in keys


def test_models_that_may_change_unnoticed_are_not_cached(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = Loading(arch=NAME)
    assert cache.key_of(str(weights), arch) is not None
    for reference, loading in (
        ("mod:tests.cli.running:tiny_vit", Loading()),
        (str(weights), Loading(arch="mod:tests.cli.running:tiny_vit")),
        (str(weights), Loading(arch=NAME, trust=True)),
        (NAME, Loading(pretrained=True)),
        (f"{NAME}.fb_in1k", Loading()),
        (f"hf:{tmp_path}", Loading()),
        (str(tmp_path), arch),
        (str(tmp_path / "absent.pt"), arch),
    ):
        assert cache.key_of(reference, loading) is None, reference
    monkeypatch.setenv(cache.SWITCH, "1")
    assert cache.key_of(NAME, Loading()) is None


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def another_key(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 64}))


@pytest.mark.parametrize("damage", [halved, nested, another_key])
def test_a_damaged_cache_entry_is_replaced(damage: Callable[[Path], None], place: Path) -> None:
    inspected(NAME, *OPTIONS, kept=False, where=place)
    damage(next(place.iterdir()))
    inspected(NAME, *OPTIONS, kept=False, where=place)
    inspected(NAME, *OPTIONS, kept=True, where=place)


def test_the_oldest_entries_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    for number in range(5):
        cache.write(str(number), {"blocks": []}, {})
        time.sleep(0.01)
        assert number < 2 or cache.read("0") is not None  # reading keeps it young
    assert {path.stem for path in place.iterdir()} == {"0", "3", "4"}
    monkeypatch.setattr(cache, "MOST_BYTES", 100)
    cache.write("5", {"blocks": ["x" * 90]}, {})
    assert sum(path.stat().st_size for path in place.iterdir()) <= 200


def test_a_cache_folder_that_cannot_be_written_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.write("0", {"blocks": []}, {})
    assert cache.read("0") is None


def test_an_entry_that_was_changed_is_not_used(place: Path) -> None:
    """Nor one that never ends; both inspections are equal to that without a cache."""
    fresh = inspected(NAME, *OPTIONS, kept=False, where=place).out
    (file,) = place.iterdir()
    good = file.read_text()
    changes: list[Callable[[], object]] = [
        lambda: file.write_text(good.replace("blocks.0", "blocks.7")),
        lambda: file.write_text(json.dumps({**json.loads(good), "document": {"blocks": [5]}})),
        lambda: file.write_text("[" * 100_000),
        lambda: (file.unlink(), os.mkfifo(file)),
        lambda: (file.unlink(), file.symlink_to("/dev/zero")),
    ]
    for change in changes:
        change()
        assert without_times(inspected(NAME, *OPTIONS, kept=False, where=place).out) == without_times(fresh)


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a user that it does not know."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    inspected(NAME, *OPTIONS, kept=False, where=Path())
    inspected(NAME, *OPTIONS, kept=False, where=Path())
    assert manifest._seal({"schema": "x"}) is None
    assert completion._names("timm")


def test_the_sealing_key_is_complete_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = tmp_path / "state" / "cbsurgeon" / "engine-key"
    key.parent.mkdir(parents=True)
    key.touch()  # a process was killed before it wrote the bytes
    seal = manifest._seal({"schema": "x"})
    assert seal is not None and seal == manifest._seal({"schema": "x"}, create=False)
    assert key.stat().st_mode & 0o777 == 0o600 and [one.name for one in key.parent.iterdir()] == ["engine-key"]
