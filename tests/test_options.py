"""A choice is one field: the same in Python, on the command line and in the help of both."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

import click
import pytest
from click.testing import CliRunner

import cbsurgeon as cbs
from cbsurgeon import vocabulary
from cbsurgeon.cli.common.options import options
from cbsurgeon.cli.group import VERBS, cli
from cbsurgeon.deploy.casting import DTYPES
from cbsurgeon.errors import UsageError
from cbsurgeon.graph.attention.queries import QUERY
from cbsurgeon.graph.block import Kind, Position
from cbsurgeon.operators import names
from cbsurgeon.options import (
    AuditOptions,
    BenchOptions,
    BenchPoints,
    CheckOptions,
    Choice,
    DataOptions,
    EvaluateOptions,
    ExportOptions,
    InsertOptions,
    Loading,
    ShipOptions,
    SweepOptions,
    VerifyOptions,
    flags_of,
    resolve,
)

CLASSES = [
    Loading,
    Choice,
    InsertOptions,
    ExportOptions,
    CheckOptions,
    VerifyOptions,
    AuditOptions,
    ShipOptions,
    DataOptions,
    EvaluateOptions,
    SweepOptions,
    BenchOptions,
    BenchPoints,
]

# What a user types for each flag, and what the field then holds, written by hand.
TYPED: dict[tuple[type, str], tuple[list[str], Any]] = {
    (Loading, "arch"): (["--arch", "timm:vit_tiny_patch16_224"], "timm:vit_tiny_patch16_224"),
    (Loading, "input"): (["--input", "3x32x32"], "3x32x32"),
    (Loading, "batch_axis"): (["--batch-axis", "x=1,mask=0"], {"x": 1, "mask": 0}),
    (Loading, "entry"): (["--entry", "model"], "model"),
    (Loading, "options"): (
        ["--model-option", "num_classes=10", "--model-option", "act=gelu"],
        {"num_classes": 10, "act": "gelu"},
    ),
    (Loading, "max_memory"): (["--max-memory", "2GB"], 2_000_000_000),
    (Loading, "trust"): (["--trust"], True),
    (Loading, "pretrained"): (["--pretrained"], True),
    (Loading, "random_weights"): (["--random-weights"], True),
    (Choice, "op"): (["--op", "cb_s"], "cb_s"),
    (Choice, "layers"): (["--layers", "6-11"], "6-11"),
    (Choice, "pos"): (["--pos", "mid"], "mid"),
    (Choice, "at"): (["--at", "both"], "both"),
    (Choice, "exclude"): (["--exclude", "7, taps"], (7, "taps")),
    (Choice, "kinds"): (["--kinds", "mlp,token-mlp"], ("mlp", "token-mlp")),
    (Choice, "allow_partial"): (["--allow-partial"], True),
    (Choice, "tokens"): (["--tokens", "1:"], "1:"),
    (Choice, "masked"): (["--masked"], True),
    (Choice, "causal"): (["--causal"], True),
    (Choice, "options"): (["--op-option", "initial=0.5"], {"initial": 0.5}),
    (InsertOptions, "on"): (["--on", "program"], "program"),
    (ExportOptions, "opset"): (["--opset", "23"], 23),
    (ExportOptions, "dtype"): (["--dtype", "float16"], "float16"),
    (ExportOptions, "keep_float32"): (["--keep-float32", "overflowing,norm*"], ("overflowing", "norm*")),
    (ExportOptions, "batch"): (["--batch", "1,4,8"], (1, 4, 8)),
    (ExportOptions, "dynamic_size"): (["--dynamic-size"], True),
    (ExportOptions, "fold"): (["--no-fold"], False),
    (CheckOptions, "verify"): (["--no-verify"], False),
    (CheckOptions, "data"): (["--data", "val"], "val"),
    (VerifyOptions, "batches"): (["--batches", "1,16"], (1, 16)),
    (VerifyOptions, "atol"): (["--atol", "1e-4"], 1e-4),
    (VerifyOptions, "rtol"): (["--rtol", "0"], 0.0),
    (VerifyOptions, "data"): (["--data", "val"], "val"),
    (ShipOptions, "data"): (["--data", "val"], "val"),
    (VerifyOptions, "bisect"): (["--bisect"], True),
    (VerifyOptions, "device"): (["--device", "cuda"], "cuda"),
    (AuditOptions, "batch"): (["--batch", "8"], 8),
    (ShipOptions, "opset"): (["--opset", "23"], 23),
    (ShipOptions, "engine"): (["--no-engine"], False),
    (ShipOptions, "bench_budget"): (["--bench-budget", "0"], 0.0),
    (DataOptions, "batch"): (["--batch", "8"], 8),
    (DataOptions, "workers"): (["--workers", "0"], 0),
    (DataOptions, "limit"): (["--limit", "100"], 100),
    (DataOptions, "strict"): (["--strict"], True),
    (DataOptions, "order"): (["--class-order", "numeric"], "numeric"),
    (DataOptions, "size"): (["--size", "224x320"], (224, 320)),
    (DataOptions, "crop"): (["--crop", "0.9"], 0.9),
    (DataOptions, "resize"): (["--resize", "squash"], "squash"),
    (DataOptions, "interpolation"): (["--interpolation", "lanczos"], "lanczos"),
    (DataOptions, "mean"): (["--mean", "imagenet"], "imagenet"),
    (DataOptions, "std"): (["--std", "0.5,0.5,0.5"], "0.5,0.5,0.5"),
    (EvaluateOptions, "claim"): (["--claim", "0.1%"], 0.001),
    (EvaluateOptions, "task"): (["--task", "multilabel"], "multilabel"),
    (EvaluateOptions, "metrics"): (["--metrics", "top1,mod:a.b:c"], ("top1", "mod:a.b:c")),
    (EvaluateOptions, "output"): (["--output-name", "logits"], "logits"),
    (EvaluateOptions, "robust"): (["--robust", "occlusion,noise=5"], ("occlusion", "noise=5")),
    (EvaluateOptions, "seeds"): (["--seeds", "3"], 3),
    (EvaluateOptions, "resume"): (["--resume"], True),
    (EvaluateOptions, "per_class"): (["--per-class"], True),
    (EvaluateOptions, "device"): (["--device", "cuda"], "cuda"),
    (DataOptions, "channels"): (["--channels", "bgr"], "bgr"),
}
TYPED |= {
    (SweepOptions, "op"): (["--op", "cb,se"], ("cb", "se")),
    (SweepOptions, "pos"): (["--pos", "mid,end"], ("mid", "end")),
    (SweepOptions, "at"): (["--at", "both"], ("both",)),
    (SweepOptions, "layers"): (["--layers", "all,upper", "--layers", "0,2,4"], ("all", "upper", "0,2,4")),
    (SweepOptions, "seeds"): (["--seeds", "0,1"], (0, 1)),
    (SweepOptions, "time"): (["--time", "2"], 2.0),
    (SweepOptions, "run"): (["--run", "python t.py {model}"], "python t.py {model}"),
    (SweepOptions, "metric"): (["--metric", "accuracy"], "accuracy"),
    (SweepOptions, "minimize"): (["--minimize"], True),
    (SweepOptions, "retries"): (["--retries", "0"], 0),
    (SweepOptions, "workers"): (["--workers", "2"], 2),
    (SweepOptions, "on"): (["--on", "ray"], "ray"),
    (SweepOptions, "budget"): (["--budget", "40m"], 2400.0),
    (SweepOptions, "storage"): (["--storage", "sqlite:///a.db"], "sqlite:///a.db"),
}
TYPED |= {
    (BenchOptions, "on"): (["--on", "onnxruntime"], "onnxruntime"),
    (BenchOptions, "budget"): (["--budget", "5m"], 300.0),
    (BenchOptions, "claim"): (["--claim", "2%"], 0.02),
    (BenchOptions, "processes"): (["--processes", "3"], 3),
    (BenchOptions, "device"): (["--device", "cuda"], "cuda"),
    (BenchOptions, "threads"): (["--threads", "2"], 2),
    (BenchPoints, "batches"): (["--batch", "1,8"], (1, 8)),
    (BenchPoints, "sizes"): (["--size", "224,288"], (224, 288)),
}
PATHS = {(Loading, "inputs"), (Loading, "recipe"), (EvaluateOptions, "classes")}


def parsed(kind: type, *typed: str) -> Any:
    """The object that a command with the flags of one class gets."""
    held: list[Any] = []

    @click.command()
    @options(kind, "given")
    def command(given: Any) -> None:
        held.append(given)

    done = CliRunner().invoke(command, list(typed), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return held[0]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_without_flags_the_command_line_has_the_defaults_of_python(kind: type) -> None:
    assert parsed(kind) == kind()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_flag_sets_its_own_field_and_no_other(kind: type) -> None:
    for field in set(flags_of(kind)) - {name for one, name in PATHS if one is kind}:
        typed, value = TYPED[kind, field]
        assert parsed(kind, *typed) == dataclasses.replace(kind(), **{field: value})  # type: ignore[type-var]


def test_every_field_has_a_help_text_that_is_a_sentence() -> None:
    for kind in CLASSES:
        for one in dataclasses.fields(kind):
            text = one.metadata["flag"].help
            assert (text.endswith(".") and text[0].isupper()) or text.startswith(("all;", "cpu")), (kind, one.name)


def test_an_object_and_its_fields_as_keywords_are_the_same() -> None:
    choice = Choice(op="cb_s", layers="all", options={"initial": 0.5})
    assert resolve(Choice, None, {"op": "cb_s", "layers": "all", "initial": 0.5}, "plan") == choice
    assert resolve(Choice, choice, {}, "plan") is not None
    assert resolve(Choice, choice, {"layers": "0"}, "plan") == dataclasses.replace(choice, layers="0")


def test_operator_options_join_the_forms() -> None:
    assert Choice(causal=True, tokens="1:", options={"initial": 1}).operator_options == {
        "initial": 1,
        "tokens": "1:",
        "causal": True,
    }
    assert Choice().operator_options == {}


def test_no_batch_option_keeps_the_batch_dynamic() -> None:
    assert ExportOptions(batch=None).only_batch is None
    assert ExportOptions(batch=4).only_batch == ExportOptions(batch=(4, 4, 4)).only_batch == 4
    assert ExportOptions().only_batch is None


def test_a_misspelt_keyword_is_refused_with_the_nearest_field() -> None:
    with pytest.raises(UsageError, match="did you mean dtype") as raised:
        resolve(ExportOptions, None, {"dtypes": "float16"}, "export")
    assert raised.value.code == "CB-OPTION-01"
    with pytest.raises(UsageError, match="ExportOptions"):
        resolve(ExportOptions, Choice(), {}, "export")  # type: ignore[arg-type]


def test_help_in_python_lists_the_fields() -> None:
    assert list(inspect.signature(cbs.plan).parameters)[:2] == ["found", "choice"]
    assert {"op", "layers", "pos"} <= set(inspect.signature(cbs.plan).parameters)
    for function, kind in ((cbs.load, Loading), (cbs.export, ExportOptions), (cbs.verify, VerifyOptions)):
        text = function.__doc__ or ""
        assert all(f"    {one.name}: " in text for one in dataclasses.fields(kind))


def test_the_vocabulary_has_the_registered_names() -> None:
    """It is written down apart, since the command line must not import torch to print a list of names."""
    assert names() == vocabulary.OPERATORS
    assert typing.get_args(Position) == (*vocabulary.POSITIONS, QUERY)
    assert set(vocabulary.KINDS) == set(typing.get_args(Kind)) - {"attention"}
    assert tuple(DTYPES) == vocabulary.DTYPES
    assert vocabulary.DEFAULT_OPSET in vocabulary.OPSETS


def test_none_for_the_options_of_an_operator_means_none() -> None:
    assert Choice(options=None, causal=True).operator_options == {"causal": True}
    assert Choice(options={"initial": 0.1}).operator_options == {"initial": 0.1}


def test_a_second_spelling_means_the_same_flag_and_the_same_keyword() -> None:
    assert (
        parsed(BenchOptions, "--backend", "eager") == parsed(BenchOptions, "--on", "eager") == BenchOptions(on="eager")
    )
    assert resolve(BenchOptions, None, {"backend": "eager"}, "bench") == BenchOptions(on="eager")


@pytest.mark.parametrize(
    ("kind", "keywords", "expected"),
    [
        (DataOptions, {"size": 64}, {"size": (64, 64)}),
        (DataOptions, {"size": "64x32"}, {"size": (64, 32)}),
        (DataOptions, {"size": (64, 32), "crop": "0.5"}, {"size": (64, 32), "crop": 0.5}),
        (BenchOptions, {"budget": "5s", "claim": "1%"}, {"budget": 5.0, "claim": 0.01}),
        (BenchOptions, {"budget": 5, "claim": 0.02}, {"budget": 5, "claim": 0.02}),
        (Choice, {"layers": [3, 4]}, {"layers": "3,4"}),
        (Choice, {"layers": 3, "kinds": "token-mlp"}, {"layers": "3", "kinds": ("token-mlp",)}),
        (
            SweepOptions,
            {"op": "cb", "layers": "0,2,4", "seeds": 3},
            {"op": ("cb",), "layers": ("0,2,4",), "seeds": (3,)},
        ),
        (SweepOptions, {"op": ("cb", "se")}, {"op": ("cb", "se")}),
        (VerifyOptions, {"device": ("cpu", "cuda")}, {"device": ("cpu", "cuda")}),
    ],
)
def test_keywords_take_what_the_command_line_takes(
    kind: type, keywords: dict[str, object], expected: dict[str, object]
) -> None:
    made = resolve(kind, None, keywords, "function")
    assert {name: getattr(made, name) for name in expected} == expected


def test_a_text_of_another_form_names_the_keyword_and_an_example() -> None:
    with pytest.raises(UsageError, match="CB-OPTION-01") as caught:
        resolve(BenchOptions, None, {"claim": "one"}, "bench")
    assert "bench(claim='one')" in caught.value.where and "bench(claim='1%')" in caught.value.do


@pytest.mark.parametrize(("text", "seconds"), [("20s", 20.0), ("5m", 300.0), ("2.5", 2.5), ("0", 0.0), ("0s", 0.0)])
def test_the_budget_of_a_shipment_is_a_time_as_that_of_bench(text: str, seconds: float) -> None:
    assert parsed(ShipOptions, "--bench-budget", text).bench_budget == seconds


def test_help_shows_no_range_without_meaning() -> None:
    """``x<=None`` is no range, and the largest int64 is no limit that a user meets."""
    for verb in VERBS:
        text = " ".join(CliRunner().invoke(cli, [verb, "--help"]).output.split())
        assert "None]" not in text and str(2**63 - 1) not in text, verb
    assert "x>=1" in CliRunner().invoke(cli, ["bench", "--help"]).output


def test_a_number_above_the_largest_is_refused_with_the_limit() -> None:
    found = CliRunner().invoke(cli, ["audit", "timm:vit_tiny_patch16_224", "--batch", str(2**64)])
    assert found.exit_code == 2 and f"is larger than {2**63 - 1}" in found.output
