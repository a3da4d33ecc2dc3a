"""Comparing the outputs of two runtimes and deciding whether they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cbsurgeon.checks.parity import difference as compare
from cbsurgeon.checks.parity import tolerance as policy
from cbsurgeon.checks.parity.inputs.feed import LARGE, PADDED, SMALL, VOCABULARY, Feed, Source
from cbsurgeon.checks.parity.inputs.images import Agreement
from cbsurgeon.checks.parity.inserted.comparing import Compared, compare_operators
from cbsurgeon.checks.parity.inserted.effect import Operators
from cbsurgeon.checks.parity.matching import match_outputs, other_order, renamed
from cbsurgeon.checks.parity.reference import Reference, output_batch_axes
from cbsurgeon.checks.parity.result import Verification
from cbsurgeon.checks.parity.row import Row, Side, Tolerance
from cbsurgeon.checks.parity.variation import Variation
from cbsurgeon.deploy.runtimes import Runtime
from cbsurgeon.errors import pass_out_of_memory
from cbsurgeon.vocabulary import IMAGES, Progress, inputs_called

# A sample's top class is clear if its margin exceeds this many times the largest rounding noise of a score. Each of two
# scores may change by that noise, and another back end's noise was up to 2.2 times that of the program.
CLEAR_MARGIN = 5.0

UNDEFINED = {
    LARGE: "which overflow the model's own dtype",
    SMALL: "for which the model itself returns NaN or infinity",
    PADDED: "for which the model itself returns NaN or infinity",
}
"""Inputs for which the outputs of a correct model may be NaN or infinite, and why."""


def side(runtime: Runtime) -> Side:
    """Return the name, back end, device and dtype of a runtime."""
    return Side(runtime.name, runtime.backend, runtime.device.type, runtime.dtype)


class Judge:
    """Compares the outputs of two runtimes.

    Attributes:
        notes: facts that limit or explain the result, in the order they were found.
        failures: failures of a whole model rather than of one output.
        fed: row → the inputs it was compared on.
        refused: labels of the inputs that the first model does not take.
        agreement: top-1 agreement on real images.
        variation: whether the outputs differ between samples.
    """

    def __init__(
        self,
        a: Runtime,
        b: Runtime,
        source: Source,
        reference: Reference,
        operators: Operators,
        given: Tolerance | None,
        depth: int,
    ) -> None:
        self.a, self.b, self.source, self.reference, self.operators = a, b, source, reference, operators
        self.given, self.depth = given, depth
        self.notes: list[str] = [*a.notes, *b.notes]
        self.failures: list[str] = []
        self.fed: dict[Row, Feed] = {}
        self.refused: set[str] = set()
        self.agreement = Agreement()
        self._floors: dict[tuple[str, int], dict[str, policy.Floor]] = {}
        self._axes = output_batch_axes(source.program) if source.program is not None else {}
        self.variation = Variation()
        self._operators: Compared | None = None

    @property
    def blind(self) -> bool:
        """Whether no output differs between samples by more than the tolerance, so that it shows nothing."""
        return self.variation.blind

    @property
    def coarse(self) -> bool:
        """Whether no output is changed by rounding, so that all show large differences only."""
        return self.variation.coarse

    def verdict(self, plan: Sequence[Feed], tell: Progress) -> Verification:
        """Compare both models on every set of inputs and return the result."""
        rows: dict[tuple[object, ...], Row] = {}
        for step, feed in enumerate(plan):
            if feed.label in self.refused:
                continue
            tell(f"comparing {inputs_called(feed.label)}, batch {feed.batch}")
            for row in self.rows(feed, plan):
                # Token ids and images come in many batches; only the worst one is reported.
                many = feed.label in (VOCABULARY, IMAGES)
                key = (feed.label, row.output) if many else (step, row.output)
                worse = key not in rows or (not row.ok, row.severity) > (not rows[key].ok, rows[key].severity)
                if worse:
                    rows[key], self.fed[row] = row, feed
        self.notes += self.variation.notes
        if self._operators is not None:
            self.notes += self._operators.notes
            self.failures += self._operators.failures
        return Verification(
            side(self.a), side(self.b), tuple(rows.values()), str(self.reference),
            notes=tuple(dict.fromkeys(self.notes)), failures=tuple(self.failures),
        )  # fmt: skip

    def _run(self, runtime: Runtime, feed: Feed) -> dict[str, Tensor]:
        return runtime.run(renamed(feed.tensors, [port.name for port in runtime.inputs]))

    def _first(self, feed: Feed) -> dict[str, Tensor] | None:
        """Run A; return ``None``, with a note, if it does not take inputs that were derived from its graph."""
        try:
            return self._run(self.a, feed)
        except Exception as error:  # the code of a model may raise anything
            pass_out_of_memory(error)
            if feed.label not in (VOCABULARY, PADDED):
                raise
            self.refused.add(feed.label)
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            self.notes.append(f"not compared on {inputs_called(feed.label)}, which A does not take: {said}")
            return None

    def rows(self, feed: Feed, plan: Sequence[Feed]) -> list[Row]:
        """Run both models on one set of inputs and return one row per output."""
        left = self._first(feed)
        if left is None:
            return []
        right = self._run(self.b, feed)
        first, second = ([port.name for port in runtime.inputs] for runtime in (self.a, self.b))
        orders = (other_order(first, second, "inputs"), other_order(list(left), list(right), "outputs"))
        self.notes += filter(None, orders)
        right = match_outputs(left, right, self.a.name, self.b.name)
        left, right = ({name: compare.as_real(one) for name, one in side.items()} for side in (left, right))
        if feed.label == IMAGES:
            self.agreement.add(left, right)
        floors = self._noise(feed, plan)
        self._check_operators(feed, plan, left, right, floors)
        rows = [self._row(feed, name, left[name], right[name], floors.get(name)) for name in left]
        return [row for row in rows if row is not None]

    def _noise(self, feed: Feed, plan: Sequence[Feed]) -> dict[str, policy.Floor]:
        """Return the rounding noise per output, measured on a few samples; it does not depend on the batch size.

        The user's own samples may have very different magnitudes, so the noise of each of them is measured.
        """
        if self.given is not None:
            return {}
        each = feed.given and feed.batch <= policy.MOST_SAMPLES
        key = (feed.label, feed.batch if each else 0)
        if key not in self._floors:
            few = feed if each else _smallest(feed.label, plan)
            inputs = few.first(feed.batch if each else policy.NOISE_BATCH, self.source.batch_axes)
            self._floors[key] = self.reference.floors(inputs, (self.a.dtype, self.b.dtype), samples=each)
        return self._floors[key]

    def _row(self, feed: Feed, name: str, a: Tensor, b: Tensor, floor: policy.Floor | None) -> Row | None:
        broken = _not_finite(a, b, self.a.name, self.b.name, floor)
        own = floor is not None and not floor.finite and not _any_finite(a, b)
        if broken and feed.label in UNDEFINED and own:
            self.notes.append(f"{name}: not compared on {feed.label} inputs, {UNDEFINED[feed.label]}")
            return None
        gap = compare.difference(b, a)
        tolerance = self._tolerance(feed, a, floor)
        groups = floor.groups if floor is not None else policy.magnitudes(a, self._axes.get(name, frozenset({0})))
        limit = policy.allowed(tolerance, {} if tolerance.source == "given" else groups, a)
        extra = compare.excess(gap, a, tolerance.rtol)
        used, relative, cosine = compare.share_used(extra, limit), compare.relative_l2(gap, a), compare.cosine(a, b)
        self.variation.look(name, a, limit, min(self._axes.get(name, frozenset({0})), default=None), floor)
        reason = broken or self._reason(a, b, (used, relative, cosine), tolerance, floor)
        return Row(
            inputs=feed.label,
            batch=feed.batch,
            output=name,
            max_abs=compare.largest(gap),
            rel_l2=relative,
            cosine=cosine,
            top1=compare.top1(a, b),
            noise=floor.max_abs if floor else None,
            would_pass_at=compare.largest(extra),
            tolerance=tolerance,
            ok=not reason,
            reason=reason,
            used=used,
        )

    def _reason(
        self,
        a: Tensor,
        b: Tensor,
        found: tuple[float, float, float],
        tolerance: Tolerance,
        floor: policy.Floor | None,
    ) -> str:
        """Return why an output with finite values fails; empty if it passes."""
        used, relative, cosine = found
        if not a.is_floating_point():
            return "" if used == 0.0 else "integers differ"
        if used > 1.0:
            return f"an element differs by {used:.3g} times its tolerance"
        if tolerance.rel_l2 is None:
            return ""
        if relative > tolerance.rel_l2:
            return f"the relative L2 difference is {relative:.1e}, at most {tolerance.rel_l2:.1e} is allowed"
        least = policy.least_cosine(self._coarser)
        usual = floor is None or 2.0 * compare.root_mean_square(a) >= floor.rms
        if a.numel() > 1 and usual and cosine < least:
            return f"the cosine is {cosine:.4f}, at least {least:g} is required in {self._coarser}"
        if floor is not None and (lost := compare.clear_disagreements(a, b, CLEAR_MARGIN * floor.max_abs)):
            return f"{lost} of {a.shape[0]} samples have another top class, although that of A leads by a clear margin"
        return ""

    @property
    def _coarser(self) -> str:
        return max((self.a.dtype, self.b.dtype), key=policy.eps)

    def _tolerance(self, feed: Feed, a: Tensor, floor: policy.Floor | None) -> Tolerance:
        if not a.is_floating_point():
            return Tolerance(0.0, 0.0, None, "given", "integers are compared exactly")
        if self.given is not None:
            return self.given
        if floor is not None:
            return policy.measured(floor, self._coarser, feed.label, compare.root_mean_square(a))
        scale = compare.largest(torch.nan_to_num(a.detach().cpu().double(), posinf=0.0, neginf=0.0).abs())
        return policy.estimated((self.a.dtype, self.b.dtype), self.depth, scale, self.reference.reason)

    def _check_operators(
        self,
        feed: Feed,
        plan: Sequence[Feed],
        left: Mapping[str, Tensor],
        right: Mapping[str, Tensor],
        floors: Mapping[str, policy.Floor],
    ) -> None:
        """Check both models for the inserted operators, on few samples; on more if these are unclear."""
        first = _smallest(feed.label, plan)
        again = self._operators is not None and not self._operators.settled and feed.batch > first.batch
        wanted = again if self._operators is not None else feed is first
        if self.operators.exists and self.given is None and wanted and plan[0].label == feed.label:
            sides = ((side(self.a), left), (side(self.b), right))
            self._operators = compare_operators(self.operators, feed.tensors, sides, floors)


def _smallest(label: str, plan: Sequence[Feed]) -> Feed:
    """Return the smallest batch of one kind of inputs that is large enough to measure noise."""
    alike = sorted((feed for feed in plan if feed.label == label), key=lambda feed: feed.batch)
    return next((feed for feed in alike if feed.batch >= policy.NOISE_BATCH), alike[-1])


def _any_finite(a: Tensor, b: Tensor) -> bool:
    """Return whether at least one of the two tensors is finite everywhere."""
    return bool(torch.isfinite(a).all()) or bool(torch.isfinite(b).all())


def _not_finite(a: Tensor, b: Tensor, first: str, second: str, floor: policy.Floor | None) -> str:
    """Return why an output cannot be compared (empty, NaN or infinite values); an empty string if it can.

    Infinite values are accepted only if the float64 program has them too (scores masked by the model).
    """
    if not a.numel():
        return "the output is empty: nothing was compared"
    if not a.is_floating_point():
        return ""
    for tensor, name in ((a, first), (b, second)):
        if count := int(torch.isnan(tensor).sum()):
            return f"NaN in {name}: {count:,} of {tensor.numel():,} values"
    for tensor, name in ((a, first), (b, second)):
        count = int(torch.isinf(tensor).sum())
        if count and (floor is None or floor.exact_finite):
            return f"infinite values in {name}: {count:,} of {tensor.numel():,}"
    return ""


__all__ = ["Judge", "side"]
