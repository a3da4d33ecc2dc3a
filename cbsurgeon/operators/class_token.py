"""CB_gate and CB_hybrid (appendix B.7): the class token takes part in what is broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cbsurgeon.operators.base import Cost, Operator


class ClassToken(Operator):
    """An operator that reads the class token.

    Whether a token *is* a class token cannot be seen in one tensor: planning proves it on the graph, and refuses where
    there is none (a mixer, global pooling) or where it cannot be proved. A site with several token axes (a picture,
    windows) has none.

    Args:
        class_token: position of the class token along the single token axis; 0, where timm, torchvision and
            transformers put it, when none is given.
    """

    def __init__(
        self, channels: int, channel_axis: int, token_axes: Sequence[int], *, class_token: int | None = None
    ) -> None:
        super().__init__(channels, channel_axis, token_axes)
        self.single_token_axis("a class token")
        if class_token is not None and (not isinstance(class_token, int) or isinstance(class_token, bool)):
            raise ValueError(f"class_token is {class_token!r}, not a position such as 0")
        self.place = class_token

    def options(self) -> dict[str, Any]:
        """``class_token``, where it was given."""
        return {} if self.place is None else {"class_token": self.place}

    def refusal(self, tokens: int) -> str:
        """The class token must be one of the tokens."""
        place = self.place or 0
        return "" if -tokens <= place < tokens else f"there are {tokens} tokens, and no token {place}"

    def class_token(self, x: Tensor) -> Tensor:
        """The class token, its axis kept with size 1."""
        axis = self.token_axes[0]
        place = self.place or 0
        return x.narrow(axis, place + x.shape[axis] if place < 0 else place, 1)


class CBGate(ClassToken):
    """``CB_gate(x_i) = x_i * (x_cls + 1)`` (appendix B.7), without parameters."""

    name = "cb_gate"

    def forward(self, x: Tensor) -> Tensor:
        """The gated tensor, same shape and type as ``x``."""
        return x * (self.class_token(x) + 1)

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Closed form on ``tokens`` tokens of ``channels`` channels, batch 1."""
        n, c = tokens, channels
        return Cost(n * c, n * c + c, 2 * n * c + 3 * c, 0, "NC + C: gate x, class token + 1")


class CBHybrid(ClassToken):
    """``CB_hybrid(x_i) = x_i * x_cls + CB(x_i)`` (appendix B.7), without parameters.

    The paper reports that it diverged when put on the MLP and on the attention together.
    """

    name = "cb_hybrid"

    def forward(self, x: Tensor) -> Tensor:
        """The gated tensor plus CB of it, same shape and type as ``x``."""
        return x * self.class_token(x) + (0.5 * x + 0.5 * self.mean(x))

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Closed form on ``tokens`` tokens of ``channels`` channels, batch 1; in the paper's convention 2NC."""
        n, c = tokens, channels
        formula = "5NC + 2C: gate x, add; CB: sum, 1/N, half x, half mean, add"
        return Cost(2 * n * c, 5 * n * c + 2 * c, 10 * n * c + 5 * c, 0, formula)
