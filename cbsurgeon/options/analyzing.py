"""Options of the attention analysis."""

from __future__ import annotations

from dataclasses import dataclass

from cbsurgeon.options.flags import memory_limit, option


@dataclass(frozen=True)
class AnalyzeOptions:
    """What :func:`cbsurgeon.analyze` draws, and where it runs."""

    pictures: int = option(
        4,
        "Number of images whose attention is drawn, evenly spaced in the dataset.",
        "--pictures",
        metavar="N",
        number=int,
        least=0,
        shown="4",
    )
    query: str = option(
        "auto",
        "Query whose attention is drawn: class (the class token), mean (over all queries), or the number of a query.",
        "--query",
        metavar="class|mean|N",
        shown="class, if there is a class token",
    )
    mass: float = option(
        0.6,
        "Fraction of the attention to draw, largest weights first; 1 draws all.",
        "--mass",
        metavar="SHARE",
        number=float,
        shown="0.6",
    )
    device: str = option("cpu", "cpu or cuda.", "--device", metavar="NAME", shown="cpu")
    max_memory: int | None = memory_limit()
