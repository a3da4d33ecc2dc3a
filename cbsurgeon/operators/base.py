"""The base class of operators: a module that maps a tensor to one of the same shape, knows its axes, describes itself.

An operator of your own is a subclass with a ``name`` and a ``forward``; ``mod:package.module:Class`` names it in
``--op`` and in recipes. Everything else has a default:

========================= =============================================================== ===========================
it may define             so that                                                          otherwise
========================= =============================================================== ===========================
``formula``               reports show its formula                                        no formula is shown
``identity_at_start``     ``insert`` need not warn that outputs change                    the warning is printed
``mixes_tokens = False``  causal and padded models need no causal or masked form          such models are refused
``options()``             recipes and weights files rebuild it with its options           it is rebuilt without options
``fixed_position``        it is inserted at the queries of attention                      ``--pos`` decides
``refusal(tokens)``       a site it cannot work at is refused before anything changes     every site is accepted
``cost(...)``             ``audit`` and ``audit --roofline`` use its closed form          its nodes are counted
``folding(...)``          an export manifest says why it was not folded                   a general reason is given
========================= =============================================================== ===========================

Subclass :class:`cbsurgeon.operators.context.Context` for an operator that uses the token mean: it provides the sliced,
causal and masked forms. Subclass :class:`cbsurgeon.operators.class_token.ClassToken` for one that reads the class
token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators.common import notes
from cbsurgeon.operators.common.cost import Cost, Folding
from cbsurgeon.operators.common.unfolding import Unfolding


class Pause:
    """The switch of ``cbsurgeon.disable``: while it is on, the operators that hold it are skipped in forward passes.

    A copy of an operator holds the same switch; an unpickled operator holds one that is off.
    """

    on = True

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Pause:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Pause, (), {"on": False}


class Operator(nn.Module):
    """Base class: ``forward`` takes and returns a tensor of one shape.

    Args:
        channels: size of the channel axis.
        channel_axis: index of the channel axis, negative from the end or non-negative.
        token_axes: indices of the token axes. All other axes are batch.

    Attributes:
        name: the word used by ``--op`` and in recipes.
        formula: what it computes, in one line.
        twice: the function that two of them in a row compute, for the error about a second insertion.
        identity_at_start: whether a freshly built operator leaves its input bit-equal.
        mixes_tokens: whether the output of one token depends on the others.
        forms: which of the options ``tokens``, ``causal`` and ``masked`` it takes; they restrict the mean.
        inserted_by: the recipe document that put it into a module; a trained module thus knows its insertions.
        recipe_digest: digest of that recipe, to recognise a state dict that was trained with another recipe
            (:mod:`cbsurgeon.operators.common.notes`).
        pause: set by ``cbsurgeon.disable`` while the operator is to be skipped.
        unfolding: splits the axis that samples and tokens share at its site. ``channel_axis`` and ``token_axes`` are
            those of the split tensor.
        dims: number of axes of the tensor at its site; ``None`` if it is not known. With another number, the axes above
            would be other ones.
        fixed_position: the only position it can be inserted at, ``query``; empty for operators that take any position.
        start: the options that only set initial values of parameters and buffers; a state dict replaces those values.
    """

    name: ClassVar[str]
    formula: ClassVar[str] = ""
    twice: ClassVar[str] = ""
    identity_at_start: ClassVar[bool] = False
    mixes_tokens: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ()
    inserted_by: Mapping[str, Any] | None = None
    recipe_digest: str | None = None
    pause: Pause | None = None
    unfolding: Unfolding | None = None
    dims: int | None = None
    start: ClassVar[tuple[str, ...]] = ()
    fixed_position: ClassVar[str] = ""

    def __init__(self, channels: int, channel_axis: int, token_axes: Sequence[int]) -> None:
        super().__init__()
        if not token_axes:
            raise ValueError("an operator needs at least one token axis")
        if channel_axis in token_axes:
            raise ValueError(f"axis {channel_axis} cannot be both channel and token")
        self.channels = channels
        self.channel_axis = channel_axis
        self.token_axes = tuple(token_axes)

    def unfold(self, unfolding: Unfolding) -> None:
        """Make the operator take and return tensors in which samples and tokens share an axis."""
        self.unfolding = unfolding
        self.register_forward_pre_hook(unfolding.split)
        self.register_forward_hook(unfolding.join)

    def options(self) -> dict[str, Any]:
        """Return the options that rebuild this operator, in addition to its channels and axes; JSON values only."""
        return {}

    def choose(self, heads: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Set the heads of the site: for every head, the ranges of channels that are its queries.

        Operators that are not inserted at ``query`` ignore them.

        Raises:
            ValueError: it cannot work with these heads.
        """

    def refusal(self, tokens: int) -> str:
        """Return why this operator cannot work at a site with this many tokens; empty if it can."""
        return ""

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Return the closed-form cost on ``tokens`` tokens of ``channels`` channels, batch 1, with these options.

        Raises:
            NotImplementedError: the operator defines no cost; its nodes are then counted one by one.
        """
        raise NotImplementedError(f"{cls.__name__} defines no cost")

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """Return what export can fold into neighbouring weights, with these options."""
        return Folding()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.recipe_digest is not None and self.inserted_by is not None:
            notes.write(destination, prefix, self.recipe_digest, self.inserted_by)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        if problem := notes.difference(local_metadata, self.recipe_digest):
            lists[-1].append(f"{prefix[:-1]}: {problem}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script``, which calls this method of each module and cannot compile our hooks."""
        raise SurgeryError(
            "torch.jit.script cannot compile an edited model",
            code="CB-SURGERY-12",
            where=f"operator {self.name}",
            why="torch.jit.script compiles only hooks of a fixed form, which the hooks that run operators do not have",
            do="torch.jit.script(cbs.scriptable(model)), or torch.jit.trace(model, inputs)",
        )

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the token axes, kept as axes of size 1; accumulated in float32 for 16-bit inputs."""
        if x.dtype in (torch.float16, torch.bfloat16):
            return x.float().mean(dim=self.token_axes, keepdim=True).to(x.dtype)
        return x.mean(dim=self.token_axes, keepdim=True)

    def single_token_axis(self, purpose: str) -> int:
        """Return the only token axis.

        Args:
            purpose: what needs a single token axis, for the message.

        Raises:
            ValueError: there are several token axes, so the tokens have no order.
        """
        if len(self.token_axes) != 1:
            raise ValueError(f"{purpose} needs a single token axis, and the site has {len(self.token_axes)}")
        return self.token_axes[0]

    def per_channel(self, vector: Tensor, like: Tensor) -> Tensor:
        """Reshape a ``[C]`` vector so that it broadcasts along the channel axis of ``like``."""
        shape = [1] * like.dim()
        shape[self.channel_axis] = self.channels
        return vector.view(shape)

    def extra_repr(self) -> str:
        """Channels, axes and options, for ``print(module)``."""
        options = "".join(f", {key}={value!r}" for key, value in self.options().items())
        return f"channels={self.channels}, channel_axis={self.channel_axis}, token_axes={self.token_axes}{options}"


def recipes_of(operators: Iterable[Operator], listed: Iterable[Mapping[str, Any]] = ()) -> list[Mapping[str, Any]]:
    """Return some recipes, and those that operators were inserted with and that are not among them, each once."""
    found = [*listed]
    for operator in operators:
        if operator.inserted_by is not None and operator.inserted_by not in found:
            found.append(operator.inserted_by)
    return found
