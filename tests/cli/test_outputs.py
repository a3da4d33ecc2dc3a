"""Outputs never overwrite inputs, under any name and however the command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from cbsurgeon import cli
from cbsurgeon.cli.common.outputs import OutputPath
from cbsurgeon.cli.group import VERBS
from cbsurgeon.cli.group import cli as group
from tests.cli.running import VIT, run, tiny_vit
from tests.cli.test_bad_input import ARCH, listing, refused

ROOT = Path(__file__).parents[2]
OUTPUTS = ("output", "recipe_out")
"""Parameters that name what is written, in every verb."""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.pt"
    torch.save(tiny_vit()[0].state_dict(), path)
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    assert run("insert", VIT, "--dry-run", "--recipe-out", path).code == 0
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_which_of_its_parameters_are_outputs(verb: str) -> None:
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    for parameter in command.params:
        assert isinstance(parameter.type, OutputPath) == (parameter.name in OUTPUTS), (verb, parameter.name)


@pytest.mark.thin(4)
@pytest.mark.parametrize("alias", ["same", "hard link", "other spelling"])
@pytest.mark.parametrize("option", ["-o", "--recipe-out"])
@pytest.mark.parametrize("lost", ["recipe", "weights", "inputs"])
def test_no_input_of_insert_is_written_over(
    lost: str, option: str, alias: str, tmp_path: Path, weights: Path, recipe: Path
) -> None:
    inputs = tmp_path / "x.npz"
    inputs.write_bytes(b"anything")
    source = {"recipe": recipe, "weights": weights, "inputs": inputs}[lost]
    target = source
    if alias == "hard link":
        target = tmp_path / "other"
        os.link(source, target)
    if alias == "other spelling":
        (tmp_path / "sub").mkdir()
        target = tmp_path / "sub" / ".." / source.name
    before = listing(tmp_path)
    words = ["insert", weights, *ARCH, "--recipe", recipe, "--inputs", inputs, option, target, "--force"]
    refused(run(*words), 2, "CB-OUT-03", str(source))
    assert listing(tmp_path) == before


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    target = tmp_path / "x.safetensors"
    refused(run("insert", VIT, "-o", target, "--recipe-out", tmp_path / "." / "x.safetensors"), 2, "CB-OUT-10")
    assert not target.exists()


def test_ship_does_not_replace_the_folder_of_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "report.json").write_text('{"schema": "cbsurgeon.ship/1"}')
    model = folder / "model.safetensors"
    assert run("insert", VIT, "-o", model).code == 0
    before = listing(tmp_path)
    refused(run("ship", model, *ARCH, "-o", folder, "--force", "--no-engine"), 2, "CB-OUT-03", str(model))
    assert listing(tmp_path) == before


def test_results_written_into_a_folder_that_is_read_replace_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"precious")
    refused(run("analyze", VIT, "--data", tmp_path, "-o", picture, "--force"), 2, "CB-OUT-03")
    assert picture.read_bytes() == b"precious"


def edited(recipe: Path, **changes: Any) -> None:
    document = json.loads(recipe.read_text())
    document["sites"][0] |= changes
    recipe.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "changes", [{"channels": 64}, {"token_axes": [2], "channel_axis": 1}, {"path": "blocks.0.mlp"}, {"index": 0}]
)
def test_a_recipe_that_is_not_of_this_model_is_refused_in_a_dry_run(changes: dict[str, Any], recipe: Path) -> None:
    assert run("insert", VIT, "--recipe", recipe, "--dry-run").code == 0
    edited(recipe, **changes)
    refused(run("insert", VIT, "--recipe", recipe, "--dry-run"), 2, "CB-RECIPE-03")


@pytest.mark.wide
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size is set as Linux has it")
def test_a_full_disk_error_names_the_requested_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from cbsurgeon.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "for target in sys.argv[1:]:\n"
        "    on = ['--on', 'program'] if target.endswith('.pt2') else []\n"
        "    print(main(['insert', 'mod:tests.cli.test_outputs:encoder', *on, '-o', target]))"
    )
    targets = [str(tmp_path / f"out.{suffix}") for suffix in ("safetensors", "pt", "pt2")]
    words = [sys.executable, "-c", code, *targets]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.returncode) == ("2\n2\n2\n", 0), done.stderr
    assert done.stderr.count("CB-OUT-07]") == 3 and all(target in done.stderr for target in targets)
    assert ".tmp" not in done.stderr
    assert listing(tmp_path) == {}


def encoder() -> Any:
    """A model that needs no library but torch."""
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 32)


def slow_factory() -> Any:
    """A model that says when it is being written, and takes its time."""
    from cbsurgeon.models import saving

    write = saving._write

    def late(*arguments: Any) -> None:
        write(*arguments)
        print("writing", file=sys.__stdout__, flush=True)
        time.sleep(60)

    saving._write = late
    return encoder()


def test_a_signal_that_ends_the_program_leaves_nothing(tmp_path: Path) -> None:
    words = ["insert", "mod:tests.cli.test_outputs:slow_factory", "-o", str(tmp_path / "out.safetensors")]
    command = [sys.executable, "-m", "cbsurgeon", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert list(tmp_path.iterdir()), "the file is written beside its place"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_the_signals_are_the_callers_again_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    cli.main(["explain", "CB-OUT-03"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.skipif(sys.platform != "linux", reason="the path is Linux's")
@pytest.mark.parametrize("words", [["insert", "-o", "/proc/x.safetensors"], ["ship", "-o", "/proc/x", "--no-engine"]])
def test_the_error_for_an_unwritable_folder_has_no_temporary_name(words: list[str]) -> None:
    verb, *rest = words
    outcome = run(verb, "mod:tests.cli.test_outputs:encoder", *rest)
    refused(outcome, 2, "CB-OUT-06", "/proc")
    assert ".tmp" not in outcome.err
