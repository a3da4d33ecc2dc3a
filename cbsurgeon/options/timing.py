"""Options of bench: how two models are timed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cbsurgeon.options.flags import memory_limit, option
from cbsurgeon.options.texts import duration, numbers, slowdown
from cbsurgeon.vocabulary import BACKENDS


@dataclass(frozen=True)
class BenchOptions:
    """How :func:`cbsurgeon.bench` times two models."""

    on: str | None = option(
        None,
        f"Back end: {', '.join(BACKENDS)}.",
        "--on",
        alias="--backend",
        metavar="NAME",
        shown="that of the file's format; eager for models",
    )
    batch: int = option(1, "Samples per call.")
    budget: float = option(
        20.0,
        "Time to spend measuring, such as 20s or 5m; in Python, seconds. It includes the start of processes, but not "
        "exporting and compiling.",
        "--budget",
        metavar="TIME",
        read=duration,
        shown="20s",
    )
    claim: float = option(
        0.01,
        "Largest slow-down of B that is acceptable, such as 1%; in Python, a fraction.",
        "--claim",
        metavar="PERCENT",
        read=slowdown,
        shown="1%",
    )
    processes: int | None = option(
        None,
        "Number of new processes to measure in.",
        "--processes",
        metavar="N",
        number=int,
        least=1,
        shown="5 if the budget allows, else the current one",
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
        most=1024,
        shown="the back end's own",
    )
    cuda_graph: bool | None = option(None, "Replay each model as a CUDA graph.", shown="on a CUDA device")
    trust: bool = option(False, "Read files that can run code (.pt2, engines).")
    max_memory: int | None = memory_limit()


@dataclass(frozen=True)
class BenchPoints:
    """Batch sizes and image sizes at which ``cbsurgeon bench`` compares."""

    batches: Sequence[int] = option(
        (1,), "Samples per call; several (1,8,64) share the budget.", "--batch", metavar="LIST", read=numbers, shown="1"
    )
    sizes: Sequence[int] = option(
        (),
        "Height and width of the images, such as 224,288; the models are built again for each size.",
        "--size",
        metavar="LIST",
        read=numbers,
        shown="the model's own",
    )
