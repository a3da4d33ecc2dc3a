"""How two models are timed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cbsurgeon.options.flags import option
from cbsurgeon.options.texts import duration, numbers, slowdown
from cbsurgeon.vocabulary import BACKENDS


@dataclass(frozen=True)
class BenchOptions:
    """How :func:`cbsurgeon.bench` times two sides."""

    on: str | None = option(
        None,
        f"Back end: {', '.join(BACKENDS)}.",
        "--on",
        alias="--backend",
        metavar="NAME",
        shown="what runs both",
    )
    batch: int = option(1, "Samples per call.")
    budget: float = option(
        20.0,
        "Time to spend measuring, such as 20s or 5m; in Python, seconds. Starting processes counts, exporting and "
        "compiling do not.",
        "--budget",
        metavar="TIME",
        read=duration,
        shown="20s",
    )
    claim: float = option(
        0.01,
        "The slow-down to prove B stays within, such as 1%; in Python, a fraction.",
        "--claim",
        metavar="PERCENT",
        read=slowdown,
        shown="1%",
    )
    processes: int | None = option(
        None, "Fresh processes to measure in.", "--processes", metavar="N", number=int, least=1, shown="by the budget"
    )
    device: str = option(
        "cpu", "cpu or cuda; an engine always runs on the GPU.", "--device", metavar="NAME", shown="cpu"
    )
    threads: int | None = option(
        None,
        "Threads within one operator.",
        "--threads",
        metavar="N",
        number=int,
        least=1,
        shown="the back end's own",
    )
    cuda_graph: bool | None = option(None, "Replay recorded work on a CUDA device.", shown="where the device is CUDA")
    trust: bool = option(False, "Read files that can run code (.pt2, engines).")


@dataclass(frozen=True)
class BenchPoints:
    """Where ``cbsurgeon bench`` compares: at every batch and every size."""

    batches: Sequence[int] = option(
        (1,), "Samples per call; several (1,8,64) share the budget.", "--batch", metavar="LIST", read=numbers, shown="1"
    )
    sizes: Sequence[int] = option(
        (),
        "Height and width of the images, such as 224,288: models are built anew for each.",
        "--size",
        metavar="LIST",
        read=numbers,
        shown="the model's own",
    )
