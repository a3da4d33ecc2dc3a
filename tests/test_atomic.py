"""Outputs are written atomically: refusals, failures in the middle, and ``kill -9`` at random moments."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cbsurgeon.errors import OutputFileError
from cbsurgeon.models.files import atomic

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    final = tmp_path / "m.onnx"
    with atomic.output(final) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".onnx"
        temporary.write_text("new")
        assert not final.exists()
    assert final.read_text() == "new"
    assert names(tmp_path) == {"m.onnx"}


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_text("x")
    with atomic.output(ours) as temporary:
        temporary.write_text("x")
    assert ours.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("existing", [True, False])
def test_any_exception_leaves_things_as_they_were(tmp_path: Path, error: type[BaseException], existing: bool) -> None:
    final = tmp_path / "m.bin"
    if existing:
        final.write_text("old")
    with pytest.raises(error), atomic.output(final, force=True) as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == ({"m.bin"} if existing else set())
    assert not existing or final.read_text() == "old"


def a_link(path: Path) -> None:
    target = path.parent / "target"
    target.write_text("precious")
    path.symlink_to(target)


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


REFUSALS: list[tuple[str, Callable[[Path], object], bool, str]] = [
    ("existing", lambda path: path.write_text("old"), False, "CB-OUT-01"),
    ("symlink", a_link, False, "CB-OUT-02"),
    ("symlink, forced", a_link, True, "CB-OUT-02"),
    ("dangling symlink, forced", a_dangling_link, True, "CB-OUT-02"),
    ("folder", lambda path: path.mkdir(), False, "CB-OUT-04"),
    ("folder, forced", lambda path: path.mkdir(), True, "CB-OUT-04"),
    ("pipe, forced", a_pipe, True, "CB-OUT-04"),
]


@pytest.mark.parametrize(
    ("prepare", "force", "code"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_destinations_that_are_refused(
    tmp_path: Path, prepare: Callable[[Path], object], force: bool, code: str
) -> None:
    final = tmp_path / "m.bin"
    prepare(final)
    before = names(tmp_path)
    with pytest.raises(OutputFileError) as caught, atomic.output(final, force=force):
        raise AssertionError("the writer must not start")
    assert caught.value.code == code
    assert caught.value.exit_code == 2
    assert caught.value.where == str(final)
    assert names(tmp_path) == before
    assert not (tmp_path / "target").exists() or (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize("alias", ["same", "hard link", "symlink to it", "other spelling"])
def test_an_input_is_never_the_output(tmp_path: Path, alias: str) -> None:
    source = tmp_path / "in.bin"
    source.write_text("input")
    final = source
    if alias == "hard link":
        final = tmp_path / "out.bin"
        os.link(source, final)
    inputs = [source]
    if alias == "symlink to it":
        (tmp_path / "link").symlink_to(source)
        inputs = [tmp_path / "link"]
    if alias == "other spelling":
        (tmp_path / "sub").mkdir()
        final = tmp_path / "sub" / ".." / "in.bin"
    with pytest.raises(OutputFileError, match="CB-OUT-03"), atomic.output(final, force=True, inputs=inputs):
        raise AssertionError("the writer must not start")
    assert source.read_text() == "input"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/no/such/folder/m.bin", "CB-OUT-05"),
        ("/etc/hostname/m.bin", "CB-OUT-05"),
        ("/proc/m.bin", "CB-OUT-06"),
        ("/", "CB-OUT-04"),
        ("..", "CB-OUT-04"),
        ("a\0b", "CB-OUT-04"),
        ("n" * 300, "CB-OUT-06"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the paths are Linux's")
def test_paths_that_cannot_be_written(path: str, code: str) -> None:
    with pytest.raises(OutputFileError) as caught, atomic.output(path):
        raise AssertionError("the writer must not start")
    assert caught.value.code == code


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        # Root may write anywhere, so the system's answer is played.
        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    else:
        tmp_path.chmod(0o500)
    with (
        pytest.raises(OutputFileError, match=r"Permission denied|no permission") as caught,
        atomic.output(tmp_path / "m"),
    ):
        raise AssertionError("the writer must not start")
    tmp_path.chmod(0o700)
    assert caught.value.code == "CB-OUT-06"


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    final = tmp_path / ("n" * 250 + ".bin")
    with atomic.output(final) as temporary:
        temporary.write_text("x")
    assert final.read_text() == "x"


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "m.bin"
    with pytest.raises(OutputFileError, match="CB-OUT-01"), atomic.output(final) as temporary:
        temporary.write_text("ours")
        final.write_text("theirs")
    assert final.read_text() == "theirs"
    assert names(tmp_path) == {"m.bin"}


def test_a_link_that_appears_meanwhile_is_replaced_not_followed(tmp_path: Path) -> None:
    final, target = tmp_path / "m.bin", tmp_path / "target"
    target.write_text("precious")
    with atomic.output(final, force=True) as temporary:
        temporary.write_text("ours")
        final.symlink_to(target)
    assert target.read_text() == "precious"
    assert final.read_text() == "ours"
    assert not final.is_symlink()


def test_a_file_system_without_hard_links_still_refuses_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    final = tmp_path / "m.bin"
    with atomic.output(final) as temporary:
        temporary.write_text("ours")
    assert final.read_text() == "ours"
    (tmp_path / "n.bin").unlink(missing_ok=True)
    with pytest.raises(OutputFileError, match="CB-OUT-01"), atomic.output(tmp_path / "n.bin") as temporary:
        temporary.write_text("ours")
        (tmp_path / "n.bin").write_text("theirs")
    assert (tmp_path / "n.bin").read_text() == "theirs"


def test_a_writer_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match="CB-OUT-08"), atomic.output(tmp_path / "m.bin") as temporary:
        temporary.unlink()
    with pytest.raises(OutputFileError, match="CB-OUT-08"), atomic.output(tmp_path / "m.bin") as temporary:
        temporary.unlink()
        temporary.symlink_to(__file__)
    assert names(tmp_path) == set()


def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from cbsurgeon.models import atomic; from cbsurgeon.errors import OutputFileError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with atomic.output(sys.argv[1]) as t:\n"
        "        with open(t, 'wb') as f: f.write(bytes(100000))\n"
        "except OutputFileError as e: print(e.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.bin"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "CB-OUT-07"
    assert names(tmp_path) == set()


def test_a_bundle_appears_main_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    publish = atomic._publish

    def watched(temporary: Path, final: Path, force: bool) -> None:
        order.append(final.name)
        publish(temporary, final, force)

    monkeypatch.setattr(atomic, "_publish", watched)
    with atomic.bundle(tmp_path / "m.onnx", companions=["m.onnx.data", "m.unused"]) as main:
        assert main.name == "m.onnx"
        main.write_text("graph")
        (main.parent / "m.onnx.data").write_text("weights")
        assert not (tmp_path / "m.onnx").exists()
    assert order == ["m.onnx.data", "m.onnx"]
    assert names(tmp_path) == {"m.onnx", "m.onnx.data"}


def test_a_bundle_refuses_unexpected_files(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match="CB-OUT-08"), atomic.bundle(tmp_path / "m.onnx") as main:
        main.write_text("graph")
        (main.parent / "surprise").write_text("x")
    with (
        pytest.raises(OutputFileError, match="CB-OUT-08"),
        atomic.bundle(tmp_path / "m.onnx", companions=["d"]) as main,
    ):
        (main.parent / "d").write_text("x")
    assert names(tmp_path) == set()
    (tmp_path / "d").write_text("old")
    with pytest.raises(OutputFileError, match="CB-OUT-01"), atomic.bundle(tmp_path / "m.onnx", companions=["d"]):
        raise AssertionError("the writer must not start")
    with pytest.raises(KeyboardInterrupt), atomic.bundle(tmp_path / "m", force=True, companions=["d"]) as main:
        main.write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == {"d"}


KILLS = 50
CHUNKS, CHUNK = 64, 65536
"""Four megabytes in 64 writes: long enough to be hit in the middle, short enough to be hit between files too."""
WRITER = f"""
import importlib.util, sys, types
# The writers alone: the packages would import torch, and fifty processes of it are slow.
for name in ("cbsurgeon", "cbsurgeon.models", "cbsurgeon.models.files", "cbsurgeon.verbs"):
    package = types.ModuleType(name)
    package.__path__ = [sys.argv[2] + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from cbsurgeon.models.files import atomic
from cbsurgeon.verbs import folder
def fill(path, number, chunks={CHUNKS}):
    with open(path, "wb") as file:
        for _ in range(chunks):
            file.write(bytes([number]) * {CHUNK})
            file.flush()
print("ready", flush=True)
turn = 0
while True:
    turn = turn % 250 + 1
    if sys.argv[3] == "file":
        with atomic.output(sys.argv[1], force=True) as temporary:
            fill(temporary, turn)
    elif sys.argv[3] == "bundle":
        with atomic.bundle(sys.argv[1], force=True, companions=["m.bin.data"]) as main:
            fill(main, turn, 4)
            fill(main.with_name("m.bin.data"), turn)
    else:
        with folder.results_folder(sys.argv[1], force=True) as place:
            fill(place / "a", turn, 4)
            fill(place / "b", turn)
            (place / folder.MARK).write_text('{{"schema": "cbsurgeon.ship/1"}}')
"""
LONGEST_LIFE = 0.1
"""Seconds a writer lives at most: some tens of files, or the middle of the first."""
PARTS = {"file": {"": CHUNKS}, "bundle": {"": 4, ".data": CHUNKS}, "folder": {"/a": 4, "/b": CHUNKS}}
"""What each kind of output consists of, by what follows its name, in chunks."""


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", PARTS)
def test_kill_9_never_leaves_a_part_under_the_final_name(kind: str, tmp_path: Path) -> None:
    final = tmp_path / "m.bin"
    dice = random.Random(0)
    interrupted = complete = 0
    for _ in range(KILLS):
        writer = subprocess.Popen([sys.executable, "-S", "-c", WRITER, final, ROOT, kind], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(dice.uniform(0, LONGEST_LIFE))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if final.exists():
            complete += 1
            contents = [Path(f"{final}{part}").read_bytes() for part in PARTS[kind]]
            assert [len(one) // CHUNK for one in contents] == list(PARTS[kind].values())
            assert len({number for one in contents for number in one}) == 1, "parts of two outputs"
        remains = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert names(tmp_path) - {path.name for path in remains} <= {f"m.bin{part}" for part in PARTS[kind]} | {"m.bin"}
        interrupted += bool(remains)
        for path in remains:
            assert path.name.startswith(".m.bin.") and ".tmp" in path.name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # A test whose writers were never hit in the middle, or never came to an end, would prove nothing.
    assert interrupted > 0 and complete > 0


RACER = (
    WRITER.partition("print(")[0]
    + """
from cbsurgeon.errors import OutputFileError
print("ready", flush=True)
sys.stdin.readline()
try:
    if sys.argv[3] == "file":
        with atomic.output(sys.argv[1]) as temporary:
            fill(temporary, int(sys.argv[4]))
    else:
        with folder.results_folder(sys.argv[1]) as place:
            fill(place / "a", int(sys.argv[4]))
    print("done")
except OutputFileError as error:
    print(error.code)
"""
)
RACERS = 6


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_several_processes_one_writes_and_the_others_are_refused(kind: str, tmp_path: Path) -> None:
    final = tmp_path / "m.bin"
    racers = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", RACER, final, ROOT, kind, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    answers = [racer.communicate("go\n", timeout=60)[0].strip() for racer in racers]
    assert sorted(answers) == ["CB-OUT-01"] * (RACERS - 1) + ["done"]
    contents = (final / "a" if kind == "folder" else final).read_bytes()
    assert contents == bytes([answers.index("done")]) * len(contents) and len(contents) == CHUNKS * CHUNK
    assert names(tmp_path) == {"m.bin"}


def test_a_full_disk_is_named_whatever_the_writer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save reports a full disk as "[enforce fail at inline_container.cc] . unexpected pos"."""
    space = shutil.disk_usage(tmp_path)
    assert atomic.unfinished(tmp_path / "m.pt", "unexpected pos", tmp_path / ".m.tmp").why == "unexpected pos"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: space._replace(free=0))
    assert atomic.unfinished(tmp_path / "m.pt", "unexpected pos", tmp_path / ".m.tmp").why == "the disk is full"
