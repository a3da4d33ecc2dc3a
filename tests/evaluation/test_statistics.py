"""Metrics and intervals against scikit-learn, scipy, published numbers, and formulas by hand."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from cbsurgeon.errors import UsageError
from cbsurgeon.evaluation.comparison import difference, judge
from cbsurgeon.evaluation.metrics import metrics_of
from cbsurgeon.evaluation.metrics.ece import BINS
from cbsurgeon.evaluation.statistics import Z95, bootstrap, mcnemar, paired_proportions, proportion

# torchmetrics bins confidences in float32.
SINGLE = 1e-6


def logits(seed: int = 0, images: int = 400, classes: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (images,), generator=generator)
    outputs = torch.randn(images, classes, generator=generator)
    outputs[torch.arange(images), targets] += 1.5
    return outputs, targets


def test_metrics_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

    outputs, targets = logits()
    found = {one.name: one.value(one.record(outputs, targets).double()) for one in metrics_of("classification", (), 12)}
    labels = numpy.arange(12)
    probabilities = outputs.double().softmax(1).numpy()
    assert found["top1"] == pytest.approx(accuracy_score(targets, outputs.argmax(1)), abs=1e-12)
    assert found["top5"] == pytest.approx(top_k_accuracy_score(targets, outputs, k=5, labels=labels), abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(targets, probabilities, labels=labels), abs=1e-9)


def test_calibration_error_by_hand() -> None:
    outputs, targets = logits(1)
    metric = metrics_of("classification", ("ece",), 12)[0]
    confidence, prediction = (part.numpy() for part in outputs.double().softmax(1).max(1))
    right, error = prediction == targets.numpy(), 0.0
    for low in numpy.linspace(0, 1, BINS + 1)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / BINS)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metric.value(metric.record(outputs, targets).double()) == pytest.approx(error, abs=SINGLE)


def test_top5_of_five_classes_is_always_one() -> None:
    assert [metric.name for metric in metrics_of("classification", (), 5)] == ["top1", "nll", "ece"]
    with pytest.raises(UsageError, match="did you mean top5") as caught:
        metrics_of("classification", ("top",), 10)
    assert caught.value.code == "CB-EVAL-05"


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (40, 40), (7, 1), (120, 180)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_the_score_interval_is_the_published_one() -> None:
    # Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014), airway data: 1 and 7 discordant of 21.
    low, high = paired_proportions(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize("count", [10, 300, 50_000])
def test_without_a_change_the_interval_shrinks_with_the_images(count: int) -> None:
    end = Z95**2 / (count + Z95**2)
    assert paired_proportions(0, 0, count) == pytest.approx((-end, end), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost", "count"), [(3, 12, 100), (0, 4, 50), (30, 30, 1000)])
def test_the_ends_of_the_score_interval_are_where_the_score_test_rejects(gained: int, lost: int, count: int) -> None:
    """The test with the nuisance parameter found by brute force instead of a formula."""
    for end in paired_proportions(gained, lost, count):
        shares = numpy.linspace(max(0.0, -end), 1, 200_001)  # share of lost images; that of gained ones follows
        other = 1 - 2 * shares - end
        with numpy.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                numpy.where(gained > 0, gained * numpy.log(shares + end), 0)
                + numpy.where(lost > 0, lost * numpy.log(shares), 0)
                + (count - gained - lost) * numpy.log(other)
            )
        best = shares[numpy.nanargmax(numpy.where(other > 0, likelihood, -numpy.inf))]
        z = (gained - lost - count * end) / math.sqrt(count * (2 * best + end * (1 - end)))
        assert abs(z) == pytest.approx(Z95, abs=1e-3)


def test_the_wilson_interval_is_that_of_scipy() -> None:
    from scipy.stats import binomtest

    ends = binomtest(81, 100).proportion_ci(method="wilson")
    assert proportion(81, 100) == pytest.approx((ends.low, ends.high), abs=1e-12)


def test_the_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4000, 1, dtype=torch.float64, generator=generator)
    low, high = bootstrap(None, rows)
    mean, half = float(rows.mean()), Z95 * float(rows.std()) / math.sqrt(4000)
    # The ends scatter by some per cent of the width.
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    same = bootstrap(lambda drawn: float(drawn[:, 0].mean()), rows)
    assert same == pytest.approx((low, high), abs=0.2 * half)


def claimed(gained: int, lost: int, count: int, limit: float) -> tuple[str, int | None]:
    a, b = torch.zeros(count, 1, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.float64)
    b[:gained] = 1
    a[gained : gained + lost] = 1
    metric = metrics_of("classification", ("top1",), 10)[0]
    found = judge(metric, difference(metric, a, b), limit, count)
    return found.verdict, found.needed


def test_claims_are_true_false_or_inconclusive() -> None:
    assert claimed(0, 0, 10_000, 0.001) == ("true", None)
    assert claimed(0, 300, 10_000, 0.001) == ("false", None)
    verdict, needed = claimed(0, 0, 100, 0.001)
    assert verdict == "inconclusive" and needed is not None
    # 3.84 / (n + 3.84) = 0.001, and the search goes in steps of 5 %.
    assert 3837 <= needed <= 3837 * 1.06
    assert claimed(0, 0, needed, 0.001)[0] == "true"
    verdict, needed = claimed(10, 14, 1000, 0.001)
    assert verdict == "inconclusive" and needed is not None
    assert claimed(10 * needed // 1000, 14 * needed // 1000, needed, 0.001)[0] == "false"


def test_a_metric_that_needs_resampling_is_paired() -> None:
    """The difference of two calibration errors on the same images is narrower than that of independent images."""
    outputs, targets = logits(5)
    metric = metrics_of("classification", ("ece",), 12)[0]
    a = metric.record(outputs, targets).double()
    b = metric.record(outputs * 1.01, targets).double()
    found = difference(metric, a, b)
    assert found.method == "bootstrap" and found.ci95 is not None and found.value is not None
    alone = bootstrap(metric.value, a)
    assert found.ci95[1] - found.ci95[0] < 0.5 * (alone[1] - alone[0])
    assert found.ci95[0] <= found.value <= found.ci95[1]
