"""The recipe travels in any state dict saved after an insertion; each is loaded in a fresh process.

The reference is the live model's output. Every file is written the way a training script would, without cbsurgeon.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import build, edited, images, logits, recipe

pytest.importorskip("timm", reason="the architectures are timm's")
pytest.importorskip("transformers", reason="one architecture is that of transformers")

ROOT = Path(__file__).parents[2]
ARCH = "timm:vit_tiny_patch16_224"
OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}

LOAD = """
import json, sys, torch
import cbsurgeon as cbs
folder = sys.argv[1]
x, found = torch.load(f"{folder}/x.pt"), {}
for name, how in json.loads(sys.argv[2]).items():
    model = cbs.load(how.pop("reference"), **how)
    with torch.no_grad():
        out = model.module(x)
    found[name] = (out if isinstance(out, torch.Tensor) else out.logits, [each["op"] for each in model.recipes])
torch.save(found, f"{folder}/found.pt")
"""


def answer(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return logits(module.eval()(images()))


def steps(module: nn.Module) -> nn.Module:
    """Somewhat trained: all weights moved, the operators' own too."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return module


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A process group of one, in which DDP and FSDP2 wrap as in any other."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch is built without gloo")
    meeting = tmp_path_factory.mktemp("meeting") / "file"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def sharded(module: nn.Module, mesh: Any) -> tuple[nn.Module, dict[str, Any]]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh)
    return module, get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def test_every_way_of_saving(group: Any, tmp_path: Path) -> None:
    live: dict[str, Tensor] = {}
    how: dict[str, dict[str, Any]] = {}
    for op in ("cb", "cb_s"):
        for name, reference, module, more in ways(op, group, tmp_path):
            how[f"{op} {name}"], live[f"{op} {name}"] = {"reference": reference, **more}, answer(module)
    assert not torch.equal(live["cb timm"], live["cb timm ema"])
    bare = build("vit")
    bare.load_state_dict(torch.load(tmp_path / "cb plain.pt"))
    assert (answer(bare) - live["cb plain"]).abs().max() > 0.01, "without the operators the outputs must differ"

    torch.save(images(), tmp_path / "x.pt")
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(tmp_path), json.dumps(how)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "found.pt")
    assert list(found) == list(how)
    for name, (out, ops) in found.items():
        assert ops == [name.split()[0]], name
        assert torch.equal(out, live[name]), name


def ways(op: str, group: Any, folder: Path) -> Iterator[tuple[str, str, nn.Module, dict[str, Any]]]:
    """Name, reference, live model and how to load it."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    plain, built = steps(edited("vit", op)), {"arch": ARCH, "options": OPTIONS}
    whole, gathered = sharded(copy.deepcopy(plain), group)
    states = {
        "plain": plain.state_dict(),
        "ddp": nn.parallel.DistributedDataParallel(copy.deepcopy(plain)).state_dict(),
        "compiled": torch.compile(plain).state_dict(),
        "lightning": {"state_dict": nn.ModuleDict({"net": plain}).state_dict(), "epoch": 1},
        "averaged": torch.optim.swa_utils.AveragedModel(plain).state_dict(),
        "fsdp": cbs.noted(gathered, whole),
    }
    for name, state in states.items():
        torch.save(state, folder / f"{op} {name}.pt")
        yield name, str(folder / f"{op} {name}.pt"), plain, built

    ema = ModelEmaV3(copy.deepcopy(plain), decay=0.5)
    ema.update(steps(copy.deepcopy(plain)), step=5)
    (folder / op).mkdir()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    saver = CheckpointSaver(plain, optimizer, model_ema=ema, checkpoint_dir=str(folder / op))
    saver.save_checkpoint(0, metric=1.0)
    for name, entry, module in (("timm", "state_dict", plain), ("timm ema", "state_dict_ema", ema.module)):
        yield name, str(folder / op / "last.pth.tar"), module, {**built, "entry": entry}

    hugging = steps(edited("hf vit", op))
    hugging.save_pretrained(folder / op / "hf")
    yield "save_pretrained", f"hf:{folder / op / 'hf'}", hugging, {}


def test_the_trainer_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    import transformers

    module = edited("hf vit", "cb")
    settings = transformers.TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to=[], disable_tqdm=True)
    transformers.Trainer(module, settings).save_model(str(tmp_path / "last"))
    loaded = cbs.load(f"hf:{tmp_path / 'last'}")
    assert [each["op"] for each in loaded.recipes] == ["cb"]
    assert loaded.module is not None and torch.equal(answer(loaded.module), answer(module))
    assert "cbsurgeon" not in loaded.provenance.architecture_options
    again = cbs.load(str(cbs.save(loaded, tmp_path / "m.safetensors")))
    assert again.module is not None and torch.equal(answer(again.module), answer(module))


def test_the_command_line_reads_it(tmp_path: Path) -> None:
    from cbsurgeon.cli.entry import main

    torch.save(edited("vit", "cb").state_dict(), tmp_path / "last.pt")
    options = [part for key, value in OPTIONS.items() for part in ("--model-option", f"{key}={value}")]
    assert main(["remove", str(tmp_path / "last.pt"), "--arch", ARCH, *options, "-o", str(tmp_path / "b.pt")]) == 0
    loaded = cbs.load(str(tmp_path / "b.pt"))
    assert loaded.recipes == () and loaded.module is not None
    assert torch.equal(answer(loaded.module), answer(build("vit")))


class TestConfiguration:
    def test_another_model_of_the_same_configuration_is_not_touched(self) -> None:
        first = build("hf vit")
        second = type(first)(first.config)
        old = first.config
        cbs.insert_(first, recipe("hf vit"))
        assert "cbsurgeon" not in second.config.to_dict() and second.config is old
        assert first.config.to_dict()["cbsurgeon"][0]["op"] == "cb"
        holders = [part.config for part in first.modules() if hasattr(part, "config")]
        assert len(holders) > 1 and all(each is first.config for each in holders)

    def test_a_removal_takes_the_entry_out(self, tmp_path: Path) -> None:
        from cbsurgeon.surgery import remove_

        module = build("hf vit")
        before = module.config.to_dict()
        remove_(cbs.insert_(module, recipe("hf vit")))
        assert module.config.to_dict() == before
        module.save_pretrained(tmp_path)
        assert cbs.load(f"hf:{tmp_path}").recipes == ()


class TestRefusals:
    def load(self, path: Path, **how: Any) -> cbs.Model:
        return cbs.load(str(path), arch=ARCH, options=OPTIONS, **how)

    def test_the_recipe_given_twice_and_another_one(self, tmp_path: Path) -> None:
        torch.save(edited("vit", "cb").state_dict(), tmp_path / "a.pt")
        assert len(self.load(tmp_path / "a.pt", recipe=recipe("vit")).recipes) == 1
        for other in (recipe("vit").without(0), recipe("vit", "cb_s")):
            with pytest.raises(cbs.CBSurgeonError, match="CB-META-04") as refused:
                self.load(tmp_path / "a.pt", recipe=other)
            assert "cb at blocks 0,1" in refused.value.why

    def test_scales_without_a_recipe(self, tmp_path: Path) -> None:
        torch.save(dict(edited("vit", "cb_s").state_dict()), tmp_path / "a.pt")
        with pytest.raises(cbs.CBSurgeonError, match="CB-FIT-01") as refused:
            self.load(tmp_path / "a.pt")
        assert "--trained-with" in refused.value.do

    def test_an_entry_that_was_copied_beside_one_with_notes(self, tmp_path: Path) -> None:
        state = edited("vit", "cb").state_dict()
        torch.save({"state_dict": state, "state_dict_ema": dict(state)}, tmp_path / "a.pt")
        with pytest.raises(cbs.CBSurgeonError, match="CB-META-05"):
            self.load(tmp_path / "a.pt", entry="state_dict_ema")
        assert len(self.load(tmp_path / "a.pt", entry="state_dict_ema", recipe=recipe("vit")).recipes) == 1
        # A model without operators says so: its state dict has notes of its modules, and none of an operator.
        torch.save({"state_dict": state, "state_dict_ema": build("vit").state_dict()}, tmp_path / "b.pt")
        assert self.load(tmp_path / "b.pt", entry="state_dict_ema").recipes == ()

    @pytest.mark.parametrize("what", ["no recipe", "no text", "not JSON", "other sites", "one missing", "no site"])
    def test_notes_that_contradict_themselves(self, what: str, tmp_path: Path) -> None:
        state: Any = edited("vit", "cb").state_dict()
        noted = state._metadata["cbsurgeon.recipes"]
        (key,) = noted
        if what == "no recipe":
            del noted[key]
        elif what == "no text":
            noted[key] = 3
        elif what == "not JSON":
            noted[key] = "{" * 50
        elif what == "other sites":
            noted[key] = json.dumps(recipe("vit").without(0).to_dict())
        elif what == "one missing":
            del state._metadata["blocks.1.mlp.context_broadcast"]
        else:
            noted[key] = json.dumps({"schema": "cbsurgeon.recipe/1", "sites": [{}]})
        torch.save(state, tmp_path / "a.pt")
        code = "CB-META-01" if what == "not JSON" else "CB-META-03"
        with pytest.raises(cbs.CBSurgeonError, match=code):
            self.load(tmp_path / "a.pt")

    def test_the_recipe_of_another_structure(self, tmp_path: Path) -> None:
        torch.save(edited("vit", "cb").state_dict(), tmp_path / "a.pt")
        with pytest.raises(cbs.CBSurgeonError):
            cbs.load(str(tmp_path / "a.pt"), arch="timm:deit3_small_patch16_224", options=OPTIONS)

    @pytest.mark.wide
    def test_a_state_dict_of_another_insertion(self) -> None:
        """A resumed training: torch's own ``load_state_dict``, with weights of another operator or other sites."""
        state = edited("vit", "cb").state_dict()
        same, fewer = edited("vit", "cb"), cbs.insert_(build("vit"), recipe("vit").without(0))
        same.load_state_dict(state)
        for module in (fewer, edited("vit", "cb_gate")):
            with pytest.raises(RuntimeError, match="trained with another recipe"):
                module.load_state_dict(state)
        fewer.load_state_dict(dict(state))  # on purpose
        edited("vit", "cb").load_state_dict(build("vit").state_dict())  # an old checkpoint
        start = cbs.plan(cbs.inspect(cbs.Model(build("vit").eval(), (images(),))), op="cb_s", layers="all")
        cbs.insert_(build("vit"), start).load_state_dict(edited("vit", "cb_s").state_dict())  # another start only

    def test_a_plain_dictionary_as_destination(self) -> None:
        module = edited("vit", "cb")
        state: dict[str, Any] = {}
        module.state_dict(destination=state)
        assert list(state) == list(module.state_dict())
        assert list(cbs.noted(state, module)) == list(state)
        assert not hasattr(state, "_metadata") and isinstance(cbs.noted(state, module), OrderedDict)
