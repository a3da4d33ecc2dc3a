"""Example inputs: shapes a user types, arrays from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from cbsurgeon.errors import CBSurgeonError, UsageError
from cbsurgeon.models import build
from cbsurgeon.models.inputs import Spec, parse, tensor

BARE = "mod:tests.models.factories:bare"


def test_shapes_parse() -> None:
    assert parse("3x224x224") == [Spec((3, 224, 224))]
    assert parse("3, 2x5:float16 ,16:int64") == [Spec((3,)), Spec((2, 5), torch.float16), Spec((16,), torch.int64)]


@pytest.mark.parametrize("text", ["", "x", "3x", "3x-1", "3x0", "3.5", "3x224:complex", "9999999", "3;4", "३"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "CB-INPUT-01"


def test_an_input_beyond_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="CB-INPUT-01"):
        tensor(2, Spec((100000, 100000)))


def test_several_inputs_are_positional_in_order() -> None:
    model = build(BARE, input="3,2")
    assert [tuple(x.shape) for x in model.example_inputs] == [(2, 3), (2, 2)]
    assert model.module is not None
    model.module(*model.example_inputs)


def test_a_text_model_keeps_its_names_and_types_under_new_shapes() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = build("hf:BertModel", options={**small, "vocab_size": 50}, input="7,7")
    assert {name: (tuple(x.shape), x.dtype) for name, x in model.example_kwargs.items()} == {
        "input_ids": ((2, 7), torch.int64),
        "attention_mask": ((2, 7), torch.int64),
    }
    assert model.example_kwargs["attention_mask"].min() == 1
    assert model.example_kwargs["input_ids"].max() < 50


@pytest.mark.parametrize("write", [numpy.savez, numpy.savez_compressed])
def test_arrays_go_to_the_parameters_they_are_named_after(tmp_path: Path, write: Any) -> None:
    rows = numpy.arange(15, dtype=numpy.float32).reshape(5, 3)
    write(tmp_path / "both.npz", shift=numpy.ones((5, 2), numpy.float32), x=rows)
    model = build(BARE, inputs=tmp_path / "both.npz")
    assert [tuple(x.shape) for x in model.example_inputs] == [(5, 3), (5, 2)]
    assert torch.equal(model.example_inputs[0], torch.from_numpy(rows))
    write(tmp_path / "late.npz", shift=numpy.ones((5, 2), numpy.float32))
    late = build(BARE, inputs=tmp_path / "late.npz")
    assert late.example_inputs == ()
    assert list(late.example_kwargs) == ["shift"]


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"y": numpy.zeros(3)}, "CB-INPUT-02"),
        ({"x": numpy.array([{"an": "object"}], dtype=object)}, "CB-INPUT-03"),
        ({"x": numpy.array(["text"])}, "CB-INPUT-03"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], code: str) -> None:
    numpy.savez(tmp_path / "i.npz", **arrays)
    with pytest.raises(CBSurgeonError) as caught:
        build(BARE, inputs=tmp_path / "i.npz")
    assert caught.value.code == code


def test_shape_and_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude"):
        build(BARE, input="3", inputs=tmp_path / "i.npz")
