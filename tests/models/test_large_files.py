"""What makes loading and saving large files fast and small changes nothing in what is loaded and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cbsurgeon import models, verbs
from cbsurgeon.errors import InputFileError, OutputFileError
from cbsurgeon.models import saving
from cbsurgeon.models.builders import weightless
from cbsurgeon.models.checkpoints import fitting
from cbsurgeon.models.files import mapped
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files.checkpoint import open_checkpoint
from cbsurgeon.models.files.safetensors import writing
from cbsurgeon.models.seed import fixed_seed

SMALL: dict[str, dict[str, Any]] = {
    "timm:vit_tiny_patch16_224": {"depth": 2, "img_size": 64},
    "timm:swin_tiny_patch4_window7_224": {"depths": [1, 1, 1, 1], "img_size": 64, "window_size": 2},
    "timm:eva02_tiny_patch14_224": {"depth": 1, "img_size": 56},
    "timm:mixer_s32_224": {},
    "timm:efficientformer_l1": {},
    "torchvision:mobilenet_v3_small": {},
}


def exact(one: nn.Module, other: nn.Module) -> None:
    """The same tensors under the same names, buffers that no file holds included; the same ones are tied."""
    for kind in ("named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(module, kind)(remove_duplicate=False)) for module in (one, other))
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert tensor.requires_grad == theirs[name].requires_grad
            assert saving.same_bytes(tensor.detach(), theirs[name].detach()), name
        assert len({id(tensor) for tensor in mine.values()}) == len({id(tensor) for tensor in theirs.values()})


@pytest.mark.parametrize("reference", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_fills_an_architecture_without_weights_as_one_with(
    reference: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.build(reference, options=SMALL[reference])
    model.module.to(dtype)  # type: ignore[union-attr]
    path = models.save(model, tmp_path / "m.safetensors")
    quick = models.load(path)
    monkeypatch.setattr(weightless, "complete", lambda *_, **__: False)
    exact(models.load(path).module, quick.module)  # type: ignore[arg-type]
    if dtype == torch.float32:
        exact(model.module, quick.module)  # type: ignore[arg-type]


class Tied(nn.Module):
    """A parameter under two names, a parameter of a type of its own, numbers drawn while it is built."""

    def __init__(self, *, buffer: bool = False, computed: bool = False, hidden: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight
        self.token = nn.Parameter(torch.randn(4), requires_grad=False)
        if buffer:
            self.register_buffer("projection", torch.randn(4), persistent=False)
        if computed:
            self.register_buffer("norm", self.one.weight.detach().norm(), persistent=False)
        if hidden:
            self.scale = self.one.weight.detach() * 2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.one(x)) + self.token
        return y


def build(**options: bool) -> tuple[Tied, bool]:
    with weightless.parameters(), fixed_seed() as drew:
        module = Tied(**options)
        return module, drew()


def test_tied_and_frozen_parameters_stay_tied_and_frozen() -> None:
    module, drew = build()
    assert all(parameter.is_meta for parameter in module.parameters())
    assert weightless.complete(module, drew=drew)
    weightless.allocate(module)
    assert module.one.weight is module.two.weight
    assert not module.one.weight.is_meta
    assert module.one.weight.requires_grad
    assert not module.token.requires_grad
    assert not nn.Linear(2, 2).weight.is_meta  # the hook is gone


@pytest.mark.parametrize("option", ["buffer", "computed", "hidden"])
def test_tensors_outside_the_state_dict_are_built_as_usual(option: str) -> None:
    """A random buffer outside the state dict, a buffer or an attribute computed from a parameter."""
    module, drew = build(**{option: True})
    assert not weightless.complete(module, drew=drew)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_groups_together_are_the_whole_state_dict(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied keys, renamed keys and tensors that lie in no file included."""
    monkeypatch.setattr(mapped, "SMALLEST", 1 << 10)
    module = Tied()
    path = models.save(models.Model(module), tmp_path / f"m.{suffix}")
    opened = open_checkpoint(path)
    asked = {f"renamed.{key}": tensor for key, tensor in opened.state_dict.items()} | {"made": torch.arange(5)}
    parts = list(mapped.in_groups(opened, asked))
    joined = {key: tensor for part in parts for key, tensor in part.items()}
    assert list(joined) == list(asked)
    assert all(saving.same_bytes(joined[key], tensor) for key, tensor in asked.items())
    large = models.build("timm:vit_tiny_patch16_224", options=SMALL["timm:vit_tiny_patch16_224"])
    opened = open_checkpoint(models.save(large, tmp_path / f"large.{suffix}"))
    assert len(list(mapped.in_groups(opened, opened.state_dict))) > 10


def test_a_file_that_differs_in_a_late_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "SMALLEST", 1 << 10)
    model = models.build("timm:vit_tiny_patch16_224", options=SMALL["timm:vit_tiny_patch16_224"])
    write = saving._write_safetensors

    def spoiled(kept: dict[str, Tensor], document: object, temporary: Path) -> None:
        write(kept, document, temporary)  # type: ignore[arg-type]
        with temporary.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))

    monkeypatch.setattr(saving, "_write_safetensors", spoiled)
    with pytest.raises(OutputFileError) as caught:
        models.save(model, tmp_path / "m.safetensors")
    assert caught.value.code == "CB-SAVE-03"
    assert not list(tmp_path.iterdir())


def test_insertion_that_shares_weights_holds_them_once() -> None:
    model = models.build("timm:vit_tiny_patch16_224", options=SMALL["timm:vit_tiny_patch16_224"])
    recipe = verbs.plan(verbs.inspect(model), op="cb_s")
    shared, copied = verbs.insert(model, recipe, share=True), verbs.insert(model, recipe)
    before = dict(model.module.named_parameters())  # type: ignore[union-attr]
    for edited, same in ((shared, True), (copied, False)):
        after = dict(edited.module.named_parameters())  # type: ignore[union-attr]
        assert set(after) > set(before)
        assert all((after[name] is tensor) is same for name, tensor in before.items())
        assert saving.state_dict(edited, "").keys() == saving.state_dict(copied, "").keys()
    assert set(dict(model.module.named_parameters())) == set(before)  # type: ignore[union-attr]


def test_digest_computed_in_a_thread_is_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 9000)
    with files.Digest(path) as digest:
        assert digest.result() == files.digest(path)
    with pytest.raises(FileNotFoundError), files.Digest(tmp_path / "none") as digest:
        digest.result()


@pytest.mark.thin(4)
@pytest.mark.parametrize("written", ["safetensors", "pt"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_model_with_mapped_weights_is_written_like_any_other(
    suffix: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From file to file, group by group, and once more from the result, insertions and all."""
    monkeypatch.setattr(mapped, "SMALLEST", 1 << 12)
    reference = "timm:swin_tiny_patch4_window7_224"
    model = models.build(reference, options=SMALL[reference])
    source = models.save(model, tmp_path / f"source.{suffix}")
    recipe = verbs.plan(verbs.inspect(model), op="cb_s", options={"initial": 0.5})
    copied = verbs.save(verbs.insert(verbs.load(str(source)), recipe), tmp_path / f"copied.{written}")
    left = verbs.load(str(source), mapped=True)
    assert left.weights is not None
    exact(left.module, model.module)  # type: ignore[arg-type]
    passed = verbs.save(verbs.insert(left, recipe, share=True), tmp_path / f"passed.{written}")
    one, other = open_checkpoint(copied), open_checkpoint(passed)
    assert one.state_dict.keys() == other.state_dict.keys()
    assert all(saving.same_bytes(tensor, other.state_dict[key]) for key, tensor in one.state_dict.items())
    assert one.recipes == other.recipes and one.architecture == other.architecture
    exact(verbs.load(str(passed)).module, verbs.load(str(passed), mapped=True).module)  # type: ignore[arg-type]


def test_tied_parameters_stay_tied_in_a_file(tmp_path: Path) -> None:
    module = Tied()
    state = open_checkpoint(models.save(models.Model(module), tmp_path / "m.safetensors")).state_dict
    fresh = Tied()
    assert fitting.adopt(fresh, state)
    assert fresh.one.weight is fresh.two.weight
    exact(fresh, module)
    assert not fitting.adopt(Tied(), {**state, "two.weight": state["one.weight"].clone()})


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused(replaced: bool, tmp_path: Path) -> None:
    """Put in place of the other, or written to: never half of each."""
    reference = "timm:vit_tiny_patch16_224"
    model = models.build(reference, options=SMALL[reference])
    source = models.save(model, tmp_path / "source.safetensors")
    left = verbs.load(str(source), mapped=True)
    if replaced:
        models.save(model, source, force=True)
    else:
        with source.open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\1\2\3\4")
    with pytest.raises(InputFileError) as caught:
        models.save(left, tmp_path / "out.safetensors")
    assert caught.value.code == "CB-LOAD-24"
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_weight_that_was_changed_in_memory_is_not_taken_from_the_file(tmp_path: Path) -> None:
    """A replaced parameter has another address in memory; a parameter changed in place cannot be detected, as
    documented."""
    reference = "timm:vit_tiny_patch16_224"
    source = models.save(models.build(reference, options=SMALL[reference]), tmp_path / "source.safetensors")
    left = verbs.load(str(source), mapped=True)
    changed = torch.full_like(left.module.head.bias, 3.0)  # type: ignore[union-attr, arg-type]
    left.module.head.bias = nn.Parameter(changed)  # type: ignore[union-attr]
    out = models.save(left, tmp_path / "out.safetensors")
    assert torch.equal(open_checkpoint(out).state_dict["head.bias"], changed)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.bool, torch.int16, torch.uint8])
def test_streams_are_read_by_the_library(kind: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = {"b": torch.arange(6).reshape(2, 3).T.to(kind), "a": torch.tensor(1).to(kind), "none": torch.zeros(0, 3)}
    assert writing.writable(state) and not writing.writable({"a": torch.zeros(1, dtype=torch.complex64)})
    writing.write(tmp_path / "s", state, [{"none": state["none"]}, {"a": state["a"], "b": state["b"]}], {"note": "é"})
    found = load_file(tmp_path / "s")
    assert all(saving.same_bytes(found[key], tensor.contiguous()) for key, tensor in state.items())
