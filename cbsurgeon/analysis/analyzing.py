"""``analyze``: measuring the attention of one model on a dataset, or comparing two models on the same images."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from cbsurgeon.analysis.comparison import compared, unlike
from cbsurgeon.analysis.feeding import Feed, feed
from cbsurgeon.analysis.layer import Entropy, Layer
from cbsurgeon.analysis.maps import captured, named
from cbsurgeon.analysis.picturing import Picturing, pictures_of
from cbsurgeon.analysis.result import Analysis, Side
from cbsurgeon.analysis.scales import Scale, scales_of
from cbsurgeon.analysis.statistics.collecting import Collected, Collector, merged
from cbsurgeon.analysis.statistics.quantities import bound
from cbsurgeon.analysis.statistics.reducing import NAMES, percentile
from cbsurgeon.analysis.tapping import Tapped
from cbsurgeon.checks.environment import environment
from cbsurgeon.data import processes
from cbsurgeon.errors import CaptureError, InputFileError, NothingMatched
from cbsurgeon.graph import Program, inspect_program
from cbsurgeon.models import Model, Preprocessing
from cbsurgeon.models.preprocessing import changed
from cbsurgeon.options import AnalyzeOptions, DataOptions
from cbsurgeon.vocabulary import Progress

REASONS = frozenset({"linear-attention", "channel-attention", "projected-weights", "map-undecided"})


@dataclass
class _Opened:
    """An opened model."""

    name: str
    program: Program
    collector: Collector
    scales: tuple[Scale, ...]
    stated: Preprocessing | None
    reason: str = ""

    @property
    def taps(self) -> int:
        return len(self.collector.tapped.taps)


def analyze(
    models: Sequence[Model | nn.Module],
    data: Any,
    how: AnalyzeOptions,
    reading: DataOptions,
    *,
    progress: Progress | None = None,
) -> Analysis:
    """Analyse the attention of one model on a dataset, or of two models with their paired differences.

    Args:
        models: one or two models.
        data: see :func:`cbsurgeon.analysis.feeding.feed`.
        how: what to draw, and the device.
        reading: how to read a dataset.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: as :func:`cbsurgeon.analyze`.
    """
    start, tell = time.perf_counter(), progress or (lambda step: None)
    tell("capturing the models")
    opened = [_open(model, how.device, data) for model in models]
    if any(one.taps for one in opened):
        found = _measured(opened, data, how, reading, tell)
    else:
        found = _of_sides([Side(one.name, (), one.scales, one.reason) for one in opened])
    return replace(
        _compared(found),
        preprocessing={
            letter: changed(one.stated, where=one.name, **reading.preprocessing).to_dict()
            for letter, one in zip("ab", opened, strict=False)
            if one.stated is not None and found.images
        },
        seconds=time.perf_counter() - start,
        environment=environment(),
        first=processes.share()[0] == 0,
    )


def _measured(
    opened: Sequence[_Opened], data: Any, how: AnalyzeOptions, reading: DataOptions, tell: Progress
) -> Analysis:
    """Run the models on the images, and return the statistics and pictures of each.

    Raises:
        InputFileError: no image could be read (CB-ANALYZE-05).
        CBSurgeonError: the dataset cannot be opened, or a batch takes too much memory.
    """
    batches = feed(
        data,
        [one.program.input_names for one in opened],
        [one.stated for one in opened],
        reading,
        processes.share(),
    )
    if how.device == "cpu":
        batches.require_memory([one.program for one in opened], how.max_memory)
    picturing = Picturing(how, [one.collector.tapped for one in opened], batches.span)
    parts = processes.gathered(lambda: _collect(opened, batches, picturing, how.device, tell))
    tell("summarizing")
    whole = [merged([part[0][side] for part in parts]) for side in range(len(opened))]
    if not whole[0].indices:
        raise InputFileError(
            "no image could be analysed",
            code="CB-ANALYZE-05",
            where=batches.name,
            why="; ".join(part[2][0] for part in parts if part[2]) or "the dataset has no images",
            do="give at least one readable image",
        )
    shots = [shot for part in parts for shot in part[1]]
    return replace(
        _of_sides([_side(one, collected) for one, collected in zip(opened, whole, strict=True)]),
        data=batches.name,
        images=len(whole[0].indices),
        pictures=pictures_of(picturing, picturing.chosen(shots), [one.stated for one in opened], how),
        remarks=tuple(dict.fromkeys(remark for part in parts for remark in part[2])),
    )


def _of_sides(sides: Sequence[Side]) -> Analysis:
    return Analysis(a=sides[0], b=sides[1] if len(sides) > 1 else None, data="", images=0)


def _compared(found: Analysis) -> Analysis:
    """Return the analysis with the differences of its two models, or with the reason why there are none."""
    if found.b is None or not found.a.layers or not found.b.layers:
        return found
    reason = unlike(found.a.layers, found.b.layers)
    if reason:
        return replace(found, remarks=(*found.remarks, f"the layers are not compared: {reason}"))
    shifts, findings, runs = compared(found.a.layers, found.b.layers)
    return replace(found, shifts=shifts, findings=findings, runs=runs)


def _open(model: Model | nn.Module, device: str, data: Any) -> _Opened:
    """Capture a model and find its attentions and scales.

    Raises:
        CaptureError: the model cannot be captured as a whole (CB-ANALYZE-08).
        NothingMatched: it has neither an attention with a map nor CB_S operators (CB-ANALYZE-04).
    """
    if isinstance(model, nn.Module):
        model = Model(model, _example(data))
    program = _whole(model)
    if device != "cpu":
        program = program.replace(_moved(program, device))
    collector = Collector(Tapped(program))
    scales = scales_of(model, program)
    operators = dict.fromkeys(str(recipe["op"]) for recipe in model.recipes)
    name = " + ".join([model.provenance.reference, *operators])
    reason = "" if collector.tapped.taps else _reason(program)
    if reason and not scales:
        raise NothingMatched(
            "there is nothing to analyse",
            code="CB-ANALYZE-04",
            where=name,
            why=f"{reason}, and the model has no CB_S operator",
            do=f"cbsurgeon inspect {model.provenance.reference} --why",
        )
    return _Opened(name, program, collector, scales, model.preprocessing, reason)


def _whole(model: Model) -> Program:
    """Return the captured program of the whole model. Captured parts are no use here: the data are inputs of the whole
    model."""
    try:
        return captured(model)
    except CaptureError as error:
        raise CaptureError(
            "the model cannot be captured whole, and its attention is read while the whole model runs",
            code="CB-ANALYZE-08",
            where=error.where or model.provenance.reference,
            why=f"{error.what}: {error.why}" if error.why else error.what,
            do="make the reported operation traceable; or analyse the part that has the attention, on its own inputs: "
            "cbs.analyze(model.module.encoder, data=tensor)",
        ) from error


def _example(data: Any) -> tuple[Tensor, ...]:
    """Return the inputs for capturing a bare module: the first two samples of a given tensor."""
    return (data[:2],) if isinstance(data, Tensor) else ()


def _moved(program: Program, device: str) -> Any:
    """Move the program to a device; with several processes, each uses its own GPU."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program.exported, _device(device))


def _device(device: str) -> str:
    return f"{device}:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _reason(program: Program) -> str:
    """Return why a model has no attention map."""
    rejected = [one for one in inspect_program(program, probe=False).rejected if str(one.reason) in REASONS]
    if not rejected:
        return "it has no attention: nowhere are queries multiplied by keys"
    kinds = dict.fromkeys(one.reason.sentence for one in rejected)
    return f"{len(rejected)} attentions without a map: {'; '.join(kinds)}"


Part = tuple[list[Collected], list[Any], tuple[str, ...]]


def _collect(opened: Sequence[_Opened], batches: Feed, picturing: Picturing, device: str, tell: Progress) -> Part:
    """Run every model on this process's share of the images; return values, picture data and remarks."""
    seen = 0
    for fed in batches:
        picturing.begin(fed)
        for side, (one, view) in enumerate(zip(opened, fed.views, strict=True)):
            inputs = {name: tensor.to(_device(device)) for name, tensor in named(one.program, view).items()}
            one.collector.add(inputs, fed.indices, picturing.keeper(side))
        seen += len(fed.indices)
        tell(f"running: {seen} images")
    return [one.collector.collected for one in opened], picturing.shots, batches.remarks()


def _side(one: _Opened, collected: Collected) -> Side:
    layers = []
    for tap, record in zip(one.collector.tapped.taps, collected.records, strict=True):
        (values,), (heads,) = record.values, record.heads
        assert record.histogram is not None
        means = {name: _mean(values[:, column]) for column, name in enumerate(NAMES)}
        most = bound(tap.attention.keys)
        entropy = Entropy(
            means["entropy"] if means["entropy"] is not None else math.nan,
            percentile(record.histogram, 0.15, most),
            percentile(record.histogram, 0.85, most),
            most,
            tuple(heads.mean(0).tolist()),
        )
        images = {name: tuple(values[:, column].tolist()) for column, name in enumerate(NAMES)}
        layers.append(
            Layer(
                tap.attention,
                entropy,
                means["class_entropy"],
                means["distance"],
                means["weighted_distance"],
                means["nuclear_norm"],
                tap.scale,
                tap.scale_read,
                images,
            )
        )
    return Side(one.name, tuple(layers), one.scales, one.reason)


def _mean(values: Tensor) -> float | None:
    """Return the mean over the images that have a value."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if len(finite) else None
