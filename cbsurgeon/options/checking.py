"""Options of export, verify, audit and ship."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cbsurgeon.options.flags import memory_limit, option
from cbsurgeon.options.texts import duration_or_zero, numbers, profile, words
from cbsurgeon.vocabulary import DEFAULT_OPSET, DTYPES, ENGINE_BATCHES, OPSETS, PARITY_BATCHES

OPSET_HELP = f"ONNX operator set: {', '.join(map(str, OPSETS[:-1]))} or {OPSETS[-1]}."


@dataclass(frozen=True)
class ExportOptions:
    """How :func:`cbsurgeon.export` writes a model."""

    opset: int = option(DEFAULT_OPSET, OPSET_HELP, "--opset", metavar="N", number=int, shown=str(DEFAULT_OPSET))
    dtype: str | None = option(
        None, "Cast the weights before exporting.", "--dtype", choices=DTYPES, shown="the model's own"
    )
    batch: int | tuple[int, int, int] | None = option(
        ENGINE_BATCHES,
        "One size fixes the batch. Three sizes (smallest, most common, largest) are the optimization profile of an "
        "engine; the batch of an ONNX file is then dynamic.",
        "--batch",
        metavar="N|MIN,OPT,MAX",
        read=profile,
        shown="1,8,64",
    )
    dynamic_size: bool = option(
        False,
        "Make height and width of images dynamic in an ONNX file, if the model's code allows it.",
        "--dynamic-size",
    )
    fold: bool = option(
        True,
        "Fold operators into neighbouring weights where possible (CB's factor 1/2).",
        "--fold",
        off="--no-fold",
        shown="fold",
    )
    keep_float32: Iterable[str] = option(
        (),
        "Nodes to keep in float32 in a 16-bit export: overflowing (those whose values leave the range of the type on "
        "the example inputs), or module paths such as blocks.3.mlp or norm*.",
        "--keep-float32",
        metavar="LIST",
        read=words,
        shown="nothing",
    )
    external_data: bool | None = option(
        None, "Put the weights of an ONNX file into a second file beside it.", shown="above 2 GB only"
    )

    @property
    def only_batch(self) -> int | None:
        """The only batch size the file takes; ``None`` if it takes several."""
        if self.batch is None or isinstance(self.batch, int):
            return self.batch
        return self.batch[0] if self.batch[0] == self.batch[-1] else None


@dataclass(frozen=True)
class VerifyOptions:
    """How :func:`cbsurgeon.verify` compares two models."""

    batches: Sequence[int] = option(
        PARITY_BATCHES, "Batch sizes to compare on.", "--batches", metavar="LIST", read=numbers, shown="1,2,7"
    )
    atol: float | None = option(
        None, "Absolute tolerance.", "--atol", metavar="NUMBER", number=float, least=0, shown="from rounding noise"
    )
    rtol: float | None = option(
        None, "Relative tolerance.", "--rtol", metavar="NUMBER", number=float, least=0, shown="from rounding noise"
    )
    bisect: bool = option(
        False,
        "If the outputs differ, compare the residual stream after each block and name the first block that differs.",
        "--bisect",
    )
    device: str | tuple[str, str] = option(
        "cpu", "cpu or cuda; an engine always runs on the GPU.", "--device", metavar="NAME", shown="cpu"
    )
    data: Any = option(
        None,
        "Also compare the outputs on 128 images of a dataset, evenly spaced: a folder, file.npz, hf:DIRECTORY, "
        "wds:PATTERN or torchvision:NAME:ROOT.",
        "--data",
        metavar="DATA",
    )
    inputs: Any = option(None, "Arrays by input name to compare on, or an .npz file of them.", shown="generated")
    trust: bool = option(False, "Read files that can run code (.pt2, engines).")
    max_memory: int | None = memory_limit()


@dataclass(frozen=True)
class CheckOptions:
    """How an exported file is compared with its model before it gets its final name."""

    verify: bool = option(
        True,
        "Compare the ONNX file with the model at batches 1, 2 and 7; a file that differs is kept as *.unverified.onnx.",
        "--verify",
        off="--no-verify",
        shown="verify",
    )
    data: Any = option(
        None,
        "Also compare the outputs on 128 images of a dataset, evenly spaced, and count those whose top class stays the "
        "same: a folder, file.npz, hf:DIRECTORY, wds:PATTERN or torchvision:NAME:ROOT.",
        "--data",
        metavar="DATA",
    )


@dataclass(frozen=True)
class AuditOptions:
    """How :func:`cbsurgeon.audit` counts."""

    batch: int = option(1, "Samples per call.", "--batch", metavar="N", number=int, least=1, shown="1")


@dataclass(frozen=True)
class ShipOptions:
    """What :func:`cbsurgeon.ship` does besides inserting."""

    opset: int = option(DEFAULT_OPSET, OPSET_HELP, "--opset", metavar="N", number=int, shown=str(DEFAULT_OPSET))
    engine: bool = option(
        True,
        "Build a TensorRT engine if a builder is installed.",
        "--engine",
        off="--no-engine",
        shown="engine",
    )
    bench_budget: float = option(
        10.0,
        "Time to spend on the benchmark, such as 20s or 5m; in Python, seconds. 0 leaves it out.",
        "--bench-budget",
        metavar="TIME",
        read=duration_or_zero,
        shown="10s",
    )
    data: Any = option(
        None,
        "Dataset to evaluate the edited model and the ONNX file on: a folder, file.npz, hf:DIRECTORY, wds:PATTERN or "
        "torchvision:NAME:ROOT.",
        "--data",
        metavar="DATA",
    )
