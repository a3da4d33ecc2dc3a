"""The cost of an operator: arithmetic in two conventions, and memory traffic for each way of running it."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = {
    "line": "the formula operator by operator (eager PyTorch): every intermediate is written to memory",
    "kernel": "kernels of its own, as few as a fusing compiler needs: its input is read again for the result",
    "folded": "pointwise arithmetic joins the residual addition and CB's halves are in the weights, as exported; the "
    "mean reads its input once more",
    "fused": "a lower bound: the projection that makes the input also sums it over the tokens",
}
"""Ways to run an operator and their meanings, from the slowest to the fastest."""


@dataclass(frozen=True)
class Traffic:
    """The memory traffic of one way to run an operator.

    Attributes:
        form: a key of :data:`FORMS`.
        kernels: kernels that one call launches in addition to those of the model.
        elements: activations read plus written for one sample.
        shared: elements read and written once per call at any batch size: weights and token positions.
    """

    form: str
    kernels: int
    elements: int
    shared: int = 0

    def moved(self, batch: int) -> int:
        """Elements read plus written by one call on ``batch`` samples."""
        return self.elements * batch + self.shared


@dataclass(frozen=True)
class Cost:
    """Closed-form cost of one call of an operator on one ``[1, N, C]`` tensor.

    Attributes:
        paper: multiply-accumulates in the paper's convention (torchprofile's: the token-wide multiplication
            counts ``N * C``, everything else nothing), as in Tables S16 and S17.
        flops: every addition and multiplication counted once, the sum over tokens as ``N * C``.
        parameters: trainable values added.
        formula: the terms of ``flops``, for display.
        traffic: memory traffic, for ``line`` and for every other form the operator can be run in.
    """

    paper: int
    flops: int
    parameters: int
    formula: str
    traffic: tuple[Traffic, ...]

    @property
    def elements(self) -> int:
        """Elements read plus written by the unfused implementation on one sample."""
        return self.traffic[0].moved(1)


@dataclass(frozen=True)
class Folding:
    """What export can fold into the weights around an operator.

    Attributes:
        factor: the operator is ``factor * (x + mean x)``, and the weights of a linear layer before or after it can take
            the factor; ``None`` if it does not have this form.
        zeros: the operator multiplies every channel by 0 or 1, and a linear layer before it can take the zeros.
        reason: why nothing can be folded, for display; empty if something can.
    """

    factor: float | None = None
    reason: str = "it is not a constant times (x + mean x)"
    zeros: bool = False


def around_a_mean(n: int, c: int, elements: int = 0, shared: int = 0) -> tuple[Traffic, ...]:
    """Return the traffic of the fused forms of a pointwise function of ``x`` and its mean over the tokens.

    The mean of ``c`` values is written by one kernel and read by the next.

    Args:
        n, c: tokens and channels.
        elements: activations that the pointwise function reads besides ``x`` and the mean.
        shared: weights it reads.
    """
    return (
        Traffic("kernel", 2, 3 * n * c + 2 * c + elements, shared),
        Traffic("folded", 1, n * c + 2 * c + elements, shared),
        Traffic("fused", 0, 2 * c + elements, shared),
    )


def around_a_scan(n: int, c: int, shared: int = 0) -> tuple[Traffic, ...]:
    """Return the traffic of the fused form of a pointwise function of ``x`` and its running mean: one scan of ``x``."""
    return (Traffic("kernel", 1, 2 * n * c, shared),)
