"""``open_data``: opening a dataset that yields batches, for one process or one of several."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cbsurgeon.data.batching import Collector
from cbsurgeon.data.limiting import limited
from cbsurgeon.data.sample import Batch, Problem
from cbsurgeon.data.sources.registry import open_source
from cbsurgeon.data.sources.source import Indexed, Source
from cbsurgeon.errors import CBSurgeonError, InputFileError, UsageError
from cbsurgeon.models import Preprocessing
from cbsurgeon.models.preprocessing import changed
from cbsurgeon.options import DataOptions, documented, resolve

MOST_WORKERS = 8
"""Most worker processes by default: with this many, decoding is rarely slower than the model."""


class Data:
    """An opened dataset. Iterating it yields the batches of this process's share; it can be iterated repeatedly.

    Attributes:
        source: the dataset: its ``count``, ``classes``, ``labelled``, ``pictures``.
        views: the preprocessings; a batch contains each image once per preprocessing.
        batch: samples per batch.
        workers: number of worker processes that decode.
        problems: samples that could not be read so far.
        notes: conversion (such as ``grey to RGB``) → number of images so far.
    """

    def __init__(
        self,
        source: Source,
        views: tuple[Preprocessing, ...],
        *,
        batch: int,
        workers: int,
        strict: bool,
        share: tuple[int, int],
    ) -> None:
        self.source, self.views = source, views
        self.batch, self.workers, self.strict, self.share = batch, workers, strict, share
        self.problems: list[Problem] = []
        self.notes: Counter[str] = Counter()

    @property
    def units(self) -> list[int]:
        """The units of this process's share: every ``processes``-th one."""
        rank, processes = self.share
        return list(range(rank, self.source.units(self.batch), processes))

    def shapes(self, view: int = 0) -> list[tuple[int, ...]]:
        """Return the shapes of one sample: those of its arrays, or height and width of an image in one of the views.

        Empty if the dataset has no samples, or if only reading all of it finds the first one.
        """
        if self.views:
            return [self.views[view].size]
        if not isinstance(self.source, Indexed) or not self.source.count:
            return []
        return [tuple(array.shape) for array in (self.source.sample(0).arrays or {}).values()]

    def __iter__(self) -> Iterator[Batch]:
        return self.read(self.units)

    def read(self, units: Sequence[int]) -> Iterator[Batch]:
        """Yield the batches of some units. A batch without a readable sample is left out unless it ends a unit.

        Raises:
            InputFileError: with ``strict``, a sample cannot be read (``CB-DATA-11``).
        """
        collector = Collector(self.source, self.views, self.batch, self.strict)
        for batch in _loader(collector, list(units), self.workers):
            self.problems.extend(batch.problems)
            self.notes.update(batch.notes)
            if len(batch) or batch.last:
                yield batch


@documented(DataOptions)
def open_data(
    spec: str | Path | Source,
    preprocessing: Preprocessing | Sequence[Preprocessing] | None = None,
    how: DataOptions | None = None,
    /,
    *,
    share: tuple[int, int] = (0, 1),
    **keywords: Any,
) -> Data:
    """Open a dataset. Samples are decoded when it is iterated.

    Args:
        spec: a folder of images (one sub-folder per class, or flat), ``file.npz``, ``hf:DIRECTORY``, ``wds:PATTERN`` or
            ``torchvision:NAME:ROOT``; or a source from :func:`open_source`.
        preprocessing: the model's own; fields of ``how`` override its parts. With several, batches contain each image
            once per preprocessing. Not needed for arrays.
        how: how to read it; or its fields as keywords.
        share: rank of this process and number of processes. Together they read each sample exactly once.

    Returns:
        The dataset; iterate it for batches.

    Raises:
        UsageError: images and no preprocessing (``CB-DATA-01``), or a batch or limit below 1 (``CB-DATA-12``).
        InputFileError: the dataset does not exist or is not valid (``CB-DATA-03`` to ``CB-DATA-09``).
        MissingPackage: a package that decoding or the kind of dataset needs is not installed.
    """
    how = resolve(DataOptions, how, keywords, "open_data")
    for name, value, least in (("batch", how.batch, 1), ("limit", how.limit, 1), ("workers", how.workers, 0)):
        if value is not None and value < least:
            raise UsageError(
                f"--{name} is too small",
                code="CB-DATA-12",
                where=_reference_of(spec),
                why=f"{value} is below {least}",
                do=f"--{name} 8",
            )
    source = spec if isinstance(spec, Source) else open_source(spec, how)
    if how.limit is not None:
        source = limited(source, how.limit)
    views: tuple[Preprocessing, ...] = ()
    if source.pictures:
        bases = preprocessing if isinstance(preprocessing, Sequence) else (preprocessing,)
        views = tuple(changed(base, where=_reference_of(spec), **how.preprocessing) for base in bases)
    workers = min((os.cpu_count() or 2) // 2, MOST_WORKERS) if how.workers is None else how.workers
    return Data(source, views, batch=how.batch, workers=workers, strict=how.strict, share=share)


def _reference_of(spec: str | Path | Source) -> str:
    return spec.spec if isinstance(spec, Source) else str(spec)


class _Stream(torch.utils.data.IterableDataset[Batch | CBSurgeonError]):
    """The units of a share; each worker process reads every ``workers``-th of them."""

    def __init__(self, collector: Collector, units: list[int]) -> None:
        self.collector, self.numbers = collector, units

    def __iter__(self) -> Iterator[Batch | CBSurgeonError]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        try:
            for unit in self.numbers[first::step]:
                yield from self.collector.batches(unit)
        except CBSurgeonError as error:
            yield error  # a worker process of PyTorch can raise only errors with a single argument


def _loader(collector: Collector, units: list[int], workers: int) -> Iterator[Batch]:
    stream = _Stream(collector, units)
    if workers == 0 or len(units) < 2:
        yield from map(_raised, stream)
        return
    how: dict[str, Any] = {"batch_size": None, "num_workers": min(workers, len(units)), "collate_fn": _identity}
    loader: Any = torch.utils.data.DataLoader(stream, **how)
    try:
        yield from map(_raised, loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputFileError(
            "a worker process that decodes images ended",
            code="CB-DATA-13",
            where=collector.source.spec,
            why=" ".join(str(error).split())[:200],
            do="use --workers 0 to decode in the main process; workers end when memory or /dev/shm is full",
        ) from error


def _raised(batch: Batch | CBSurgeonError) -> Batch:
    if isinstance(batch, CBSurgeonError):
        raise batch
    return batch


def _identity(batch: Batch) -> Batch:
    return batch
