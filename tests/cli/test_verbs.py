"""The verbs on a tiny real model: what they print, what they write, and that the files mean what they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import cbsurgeon as cbs
from tests.cli.running import SMALL, TIMM, VIT, run, tiny_vit

SEEDED = 7


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that carry their architecture, as every later step of a session starts from."""
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    cbs.save(cbs.load(TIMM, options=SMALL), path)
    return path


@pytest.fixture(scope="module")
def edited(plain: Path) -> Path:
    path = plain.with_name("edited.safetensors")
    outcome = run("insert", plain, "--layers", "all", "-o", path)
    assert outcome.code == 0, outcome.err
    return path


def test_inspect_lists_blocks_with_the_fields_of_the_contract() -> None:
    found = run("inspect", VIT, "--json").document
    assert found["schema"] == "cbsurgeon.inspect/1"
    assert [block["index"] for block in found["blocks"]] == [0, 1]
    fields = {"index", "stack", "kind", "fc1", "fc2", "token_axes", "tokens", "channels", "hidden", "default", "calls"}
    assert all(fields <= set(block) for block in found["blocks"])
    assert all({"reason", "detail", "nodes", "path"} <= set(rejected) for rejected in found["rejected"])
    text = run("inspect", VIT).out
    assert "2 MLP blocks" in text and "blocks.1.mlp" in text


def test_insert_prints_the_explicit_list_and_warns(edited: Path, plain: Path, tmp_path: Path) -> None:
    outcome = run("insert", plain, "--layers", "upper", "-o", tmp_path / "x.safetensors", "--json")
    document = outcome.document
    assert document["schema"] == "cbsurgeon.insert/1"
    assert document["chosen"] == [1] and document["blocks"] == 2 and document["keys_added"] == []
    assert "warning: cb changes what the model computes; train or fine-tune" in outcome.err
    quiet = run("insert", plain, "--layers", "upper", "-o", tmp_path / "y.safetensors", "-q")
    assert quiet.err == "" and "block: 1\n" in quiet.out


def test_cb_s_adds_its_scales_and_needs_no_warning(plain: Path, tmp_path: Path) -> None:
    outcome = run("insert", plain, "--op", "cb_s", "--layers", "all", "-o", tmp_path / "s.safetensors", "--json")
    assert len(outcome.document["keys_added"]) == 2 and all(k.endswith("scale") for k in outcome.document["keys_added"])
    assert "warning" not in outcome.err
    a, b = cbs.load(str(plain)), cbs.load(str(tmp_path / "s.safetensors"))
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(SEEDED))
    assert torch.equal(a.module(x), b.module(x))


def test_a_checkpoint_replays_its_recipe_when_it_is_loaded(plain: Path, edited: Path) -> None:
    """The file alone gives the edited model: same keys, other function; and it equals an insertion by hand."""
    again, original = cbs.load(str(edited)), cbs.load(str(plain))
    assert set(again.module.state_dict()) == set(original.module.state_dict())
    by_hand = cbs.insert(original, cbs.plan(cbs.inspect(original), layers="all"))
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(SEEDED))
    assert torch.equal(again.module(x), by_hand.module(x))
    assert not torch.equal(again.module(x), original.module(x))


def test_remove_gives_back_the_original_bit_for_bit(plain: Path, edited: Path, tmp_path: Path) -> None:
    path = tmp_path / "back.safetensors"
    outcome = run("remove", edited, "-o", path, "--json")
    assert outcome.document["schema"] == "cbsurgeon.remove/1" and len(outcome.document["removed"]) == 2
    assert "warning: weights that were trained with these operators stay as trained" in outcome.err
    a, b = cbs.load(str(plain)).module, cbs.load(str(path)).module
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(SEEDED))
    assert torch.equal(a(x), b(x))


def test_a_second_insertion_is_refused(edited: Path, tmp_path: Path) -> None:
    outcome = run("insert", edited, "--layers", "all", "-o", tmp_path / "twice.safetensors")
    assert outcome.code == 2 and "error: " in outcome.err and not (tmp_path / "twice.safetensors").exists()


def test_a_dry_run_writes_only_the_recipe_and_the_recipe_replays(
    plain: Path, edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("insert", plain, "--layers", "all", "--dry-run", "--recipe-out", "recipe.json")
    assert outcome.code == 0 and outcome.out.splitlines()[1].startswith("would insert")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
    assert run("insert", plain, "--recipe", "recipe.json").code == 0
    replayed = cbs.load("plain-cb.safetensors").module
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(replayed(x), cbs.load(str(edited)).module(x))


def test_the_default_name_of_the_output_names_the_operator(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("insert", plain, "--op", "cb_s", "--recipe-out", "recipe.json").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "plain-cb_s.safetensors"}
    assert "plain-cb_s.safetensors" in run("insert", plain, "--recipe", "recipe.json").err, (
        "the same name, which exists"
    )


@pytest.fixture(scope="module")
def exported(edited: Path) -> Path:
    path = edited.with_name("edited.onnx")
    outcome = run("export", edited, "-o", path, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["schema"] == "cbsurgeon.export/1" and outcome.document["path"] == str(path)
    assert outcome.document["verify"]["ok"] and {row["batch"] for row in outcome.document["verify"]["rows"]} == {
        1,
        2,
        7,
    }
    return path


def test_export_leaves_no_other_file_in_the_folder(exported: Path) -> None:
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "edited.onnx",
        "edited.safetensors",
        "plain.safetensors",
    ]


def test_inspect_of_an_onnx_file_says_what_was_inserted(exported: Path) -> None:
    found = run("inspect", exported, "--json").document
    assert found["schema"] == "cbsurgeon.inspect/1" and len(found["inserted"]) == 1
    assert "cb at end of blocks 0,1" in run("inspect", exported).out


def test_verify_tells_the_same_from_the_different(plain: Path, edited: Path, exported: Path) -> None:
    same = run("verify", edited, exported, "--json")
    assert same.code == 0 and same.document["ok"] and same.document["schema"] == "cbsurgeon.verify/1"
    assert {"max_abs", "rel_l2", "tolerance", "first_bad_block"} <= set(same.document)
    different = run("verify", plain, exported, "--json")
    assert different.code == 1 and different.document["ok"] is False
    assert "[CB-VERIFY-01]" in different.err


def test_audit_counts_the_operator(plain: Path, edited: Path) -> None:
    counted = run("audit", plain, edited, "--json").document
    assert counted["schema"] == "cbsurgeon.audit/1"
    tokens, channels, blocks = 17, 48, 2
    assert counted["flops"]["difference"] == blocks * tokens * channels  # N*C per CB, the paper's convention
    assert counted["params"]["difference"] == 0


def test_bench_answers_with_an_interval(plain: Path, edited: Path) -> None:
    outcome = run("bench", plain, edited, "--budget", "3s", "--claim", "500%", "--json")
    found = outcome.document
    assert found["schema"] == "cbsurgeon.bench/1"
    assert found["ci95"][0] <= found["ratio"] <= found["ci95"][1]
    assert {"verdict", "pairs", "environment"} <= set(found)
    assert outcome.code == (1 if found["verdict"] == "slower" else 0)


def test_results_of_verbs_make_a_report(plain: Path, edited: Path, tmp_path: Path) -> None:
    for verb, words in {"inspect": [plain], "audit": [plain, edited]}.items():
        (tmp_path / f"{verb}.json").write_text(run(verb, *words, "--json").out)
    page = tmp_path / "report.html"
    outcome = run("report", *tmp_path.glob("*.json"), "-o", page)
    assert outcome.code == 0, outcome.err
    assert "blocks.1.mlp" in page.read_text()


@pytest.mark.wide
def test_an_export_that_differs_is_kept_as_unverified(
    edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fault planted in the exporter, the file never gets its final name, and the exit code is 1."""
    _plant_fault(monkeypatch)
    outcome = run("export", edited, "-o", tmp_path / "m.onnx", "--json")
    assert outcome.code == 1 and "[CB-VERIFY-01]" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.unverified.onnx"]
    assert outcome.document["path"] == str(tmp_path / "m.unverified.onnx") and not outcome.document["verify"]["ok"]


def test_ship_runs_every_step(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shipped"
    outcome = run("ship", plain, "--layers", "upper", "--pos", "end", "-o", folder, "--bench-budget", "3", "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert document["schema"] == "cbsurgeon.ship/1" and document["ok"]
    kinds = [part["schema"] for part in document["documents"]]
    assert {f"cbsurgeon.{verb}/1" for verb in ("inspect", "insert", "export", "verify", "audit", "bench")} == set(kinds)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "recipe.json", "model.onnx", "report.html", "report.json"} <= names
    assert ("model.engine" in names) != ("engine" in document["left_out"])
    assert json.loads((folder / "report.json").read_text()) == document
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]
    x = np.random.default_rng(SEEDED).standard_normal((5, 3, 64, 64), dtype=np.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        want = cbs.load(str(folder / "model.safetensors")).module(torch.from_numpy(x)).numpy()
    # fp32 through other kernels: 30 times the float32 step of outputs of this size.
    assert np.abs(got - want).max() <= 30 * np.spacing(np.float32(np.abs(want).max()))
    again = run(
        "ship", plain, "--layers", "all", "-o", folder, "--bench-budget", "0", "--no-engine", "--force", "--json"
    )
    assert again.code == 0 and again.document["left_out"].keys() == {"engine", "benchmark", "accuracy"}
    assert not (folder / "model.engine").exists()


@pytest.mark.wide
def test_ship_with_failed_parity_exits_1_and_keeps_the_unverified_file(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant_fault(monkeypatch)
    folder = tmp_path / "shipped"
    outcome = run("ship", plain, "-o", folder, "--json")
    assert outcome.code == 1 and "[CB-VERIFY-01]" in outcome.err and outcome.document["ok"] is False
    names = {path.name for path in folder.iterdir()}
    assert "model.unverified.onnx" in names and not {"model.onnx", "model.engine"} & names
    assert "DIFFERENT" in (folder / "report.html").read_text()


def test_python_is_the_command_line() -> None:
    """The README's lines, on a module of the user's own."""
    module, inputs = tiny_vit()
    model = cbs.Model(module, inputs)
    found = cbs.inspect(module, inputs)
    recipe = cbs.plan(found, op="cb", layers="upper", pos="end")
    edited = cbs.insert(model, recipe)
    assert [site.index for site in recipe.sites] == [1]
    assert not torch.equal(edited.module(*inputs), module(*inputs))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    twin = cbs.insert_(module, recipe)
    assert twin is module
    assert torch.equal(module(*inputs), edited.module(*inputs))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def _plant_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the exporter write another model: its weights are moved by a hundredth."""
    from dataclasses import replace

    from cbsurgeon import deploy

    true_export = deploy.export

    def wrong(model: cbs.Model, *args: object, **kwargs: object) -> object:
        copy = (
            cbs.load(TIMM, options=SMALL)
            if model.module is None
            else replace(model, module=_moved(model.module), program=None)
        )
        kwargs.pop("program", None)
        return true_export(copy, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(deploy, "export", wrong)


def _moved(module: torch.nn.Module) -> torch.nn.Module:
    import copy

    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    return other


def test_the_program_can_be_edited_instead_and_gives_the_same_numbers(
    plain: Path, edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("insert", plain, "--layers", "all", "--on", "program", "-q").code == 0
    same = run("verify", edited, "plain-cb.pt2", "--trust", "--json")
    assert same.code == 0 and same.document["ok"], same.err
    refused = run("insert", plain, "--on", "program", "-o", "x.safetensors")
    assert refused.code == 2 and "-o x.pt2" in refused.err


def test_ship_of_a_program(plain: Path, tmp_path: Path) -> None:
    program = tmp_path / "plain.pt2"
    assert run("export", plain, "-o", program).code == 0
    folder = tmp_path / "shipped"
    outcome = run("ship", program, "--trust", "-o", folder, "--bench-budget", "0", "--no-engine", "--json")
    assert outcome.code == 0, outcome.err
    assert {"model.pt2", "model.onnx", "report.html"} <= {path.name for path in folder.iterdir()}


def test_a_training_checkpoint_is_read_with_its_recipe(plain: Path, tmp_path: Path) -> None:
    """A checkpoint whose state dict was copied carries no recipe; given one, every verb takes it."""
    recipe, checkpoint = tmp_path / "recipe.json", tmp_path / "last.pth.tar"
    run("insert", VIT, "--op", "cb_s", "--layers", "all", "--dry-run", "--recipe-out", recipe)
    module = tiny_vit()[0]
    cbs.insert_(module, cbs.plan(cbs.inspect(cbs.load(VIT)), op="cb_s", layers="all"))
    torch.save({"epoch": 1, "state_dict": dict(module.state_dict())}, checkpoint)
    refused = run("inspect", checkpoint, "--arch", VIT)
    assert refused.code == 2 and "--trained-with" in refused.err
    found = run("inspect", checkpoint, "--arch", VIT, "--trained-with", recipe, "--json")
    assert found.code == 0, found.err
    sites = [block["sites"]["end"]["occupied"] for block in found.document["blocks"]]
    assert sites == ["cb_s", "cb_s"]
    absent = run("inspect", checkpoint, "--arch", VIT, "--trained-with", tmp_path / "absent.json")
    assert absent.code == 2 and "absent.json" in absent.err


def test_bisect_finds_the_block_of_a_stale_bias(tmp_path: Path) -> None:
    """A file in which one bias was not folded with its weight, as a user meets it."""
    model = cbs.load(TIMM, options=SMALL)
    for block in model.module.blocks:
        torch.nn.init.normal_(block.mlp.fc2.bias)
    recipe = cbs.plan(cbs.inspect(model), layers="all")
    edited, file, right = tmp_path / "m.safetensors", tmp_path / "stale.onnx", tmp_path / "right.onnx"
    cbs.save(cbs.insert(model, recipe), edited)
    assert run("export", edited, "-o", right).code == 0
    proto = onnx.load(right)
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "blocks.1.mlp.fc2.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(0.5 * onnx.numpy_helper.to_array(bias), bias.name))
    onnx.save(proto, file)
    outcome = run("verify", edited, file, "--bisect", "--json")
    assert outcome.code == 1
    assert outcome.document["first_bad_block"] == "blocks.1.mlp"
    assert "blocks.1.mlp" in outcome.err
    assert run("verify", edited, right, "--bisect").code == 0
