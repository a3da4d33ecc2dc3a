"""CB: Context Broadcasting (section 3.2, eq. 1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cbsurgeon.operators.common.cost import Cost, Folding, Traffic, around_a_mean, around_a_scan
from cbsurgeon.operators.context import Context


class CB(Context):
    """Context Broadcasting: ``CB(x_i) = (x_i + mean_j x_j) / 2`` (eq. 1), without parameters.

    Computed as in the paper's code, ``0.5 * x + 0.5 * x.mean(dim, keepdim=True)``, so that eager float32 results are
    bit-equal to those of a model with that line in its source. CB keeps the mean of the tokens and halves their
    deviations from it. A model has to be trained or fine-tuned with CB.
    """

    name = "cb"
    formula = "(x + mean x) / 2"
    twice = "Context Broadcasting twice is another operator: 0.25 x + 0.75 mean"

    def forward(self, x: Tensor) -> Tensor:
        """Eq. 1 on a tensor of any shape; the result has the same shape and type."""
        return self.over(x, self._mix)

    def _mix(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        return 0.5 * x + 0.5 * self.context(x, hidden)

    @classmethod
    def plain_cost(cls, n: int, c: int) -> Cost:
        """3NC + 2C; the paper counts NC."""
        traffic = (Traffic("line", 4, 5 * n * c + 4 * c), *around_a_mean(n, c))
        return Cost(n * c, 3 * n * c + 2 * c, 0, "3NC + 2C: sum, 1/N, half x, half mean, add", traffic)

    @classmethod
    def causal_cost(cls, n: int, c: int) -> Cost:
        """5NC; the paper's convention counts both halves, 2NC."""
        traffic = (Traffic("line", 6, 11 * n * c, 2 * n), *around_a_scan(n, c))
        return Cost(2 * n * c, 5 * n * c, 0, "5NC: running sum, divide, half x, half mean, add", traffic)

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """For the mean over all tokens: the factor 1/2, into the linear layer before or after the operator."""
        restricted = [form for form in cls.forms if options.get(form)]
        if restricted:
            return Folding(reason=f"the mean is restricted ({', '.join(restricted)}), not that of all tokens")
        return Folding(factor=0.5, reason="")
