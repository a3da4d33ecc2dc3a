"""What every operator is: a module that maps a tensor to one of the same shape, knows its axes, and describes itself.

An operator of your own is a subclass with a ``name`` and a ``forward``; ``mod:package.module:Class`` names it in
``--op`` and in recipes. Everything else it may say of itself has a default:

========================= =============================================================== ===========================
it may define             so that                                                          otherwise
========================= =============================================================== ===========================
``formula``               reports show its formula                                        no formula is shown
``identity_at_start``     ``insert`` need not warn that outputs change                    the warning is printed
``mixes_tokens = False``  causal and padded models need no causal or masked form          such models are refused
``options()``             recipes and weights files rebuild it with its options           it is rebuilt without options
``stands_at``             it goes to attention, at the result of the query projection      it goes where ``--pos`` says
``refusal(tokens)``       a site it cannot work at is refused before anything changes     every site is accepted
``cost(...)``             ``audit`` and ``audit --roofline`` use its closed form          its nodes are counted
``folding(...)``          an export manifest says why it was not folded                   a general reason is given
========================= =============================================================== ===========================

Subclass :class:`cbsurgeon.operators.context.Context` for an operator around the mean of the tokens: it brings the
sliced, causal and masked forms. Subclass :class:`cbsurgeon.operators.class_token.ClassToken` for one that reads the
class token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cbsurgeon.errors import SurgeryError
from cbsurgeon.operators.common import notes
from cbsurgeon.operators.common.cost import Cost, Folding
from cbsurgeon.operators.common.unfolding import Unfolding


class Pause:
    """Leaves the operators that hold it out of forward passes while it is on; copies of an operator hold the same one.

    A pickle holds one that is off.
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
        twice: what two of them in a row compute, for the refusal of a second insertion.
        identity_at_start: whether a freshly built operator leaves its input bit-equal.
        mixes_tokens: whether the output of one token depends on the others.
        forms: options that restrict the mean: ``tokens``, ``causal`` and ``masked``, those it takes.
        inserted_by: the recipe document that put it into a module; a trained module thus knows its insertions.
        recipe_digest: of that recipe, to tell state dicts of other recipes (:mod:`cbsurgeon.operators.common.notes`).
        pause: what ``cbsurgeon.disable`` leaves it out by.
        unfolding: splits the axis that samples and tokens share at its site; the axes are those of the split tensor.
        stands_at: the one position it can stand at, ``query``; empty for those that stand where they are told.
        start: the options that only say where its parameters and buffers start, which a state dict holds.
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
    start: ClassVar[tuple[str, ...]] = ()
    stands_at: ClassVar[str] = ""

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
        """Take and give tensors in which samples and tokens share an axis."""
        self.unfolding = unfolding
        self.register_forward_pre_hook(unfolding.split)
        self.register_forward_hook(unfolding.join)

    def options(self) -> dict[str, Any]:
        """Options that rebuild this operator beside its channels and axes; JSON values only."""
        return {}

    def choose(self, heads: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Take what the site knows: for every head, the ranges of channels that are its queries.

        Only an operator that stands at ``query`` has a use for it.

        Raises:
            ValueError: it cannot work with these heads.
        """

    def refusal(self, tokens: int) -> str:
        """Why this operator cannot stand at a site of so many tokens; empty where it can."""
        return ""

    @classmethod
    def cost(cls, tokens: int, channels: int, /, **options: Any) -> Cost:
        """Closed-form cost on ``tokens`` tokens of ``channels`` channels, batch 1, with the operator's options.

        Raises:
            NotImplementedError: it states none; its nodes are then counted one by one.
        """
        raise NotImplementedError(f"{cls.__name__} states no cost")

    @classmethod
    def folding(cls, **options: Any) -> Folding:
        """What export can move into the weights around it, with the operator's options."""
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
        """Refuse ``torch.jit.script``, which asks each module for this and cannot compile the hook that runs it."""
        raise SurgeryError(
            "an edited model is not scripted as it is",
            code="CB-SURGERY-12",
            where=f"operator {self.name}",
            why="torch.jit.script compiles hooks only in a fixed form, which those of the operators do not have",
            do="torch.jit.script(cbs.scriptable(model)), or torch.jit.trace(model, inputs)",
        )

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the token axes, kept as axes of size 1; accumulated in float32 for 16-bit inputs."""
        if x.dtype in (torch.float16, torch.bfloat16):
            return x.float().mean(dim=self.token_axes, keepdim=True).to(x.dtype)
        return x.mean(dim=self.token_axes, keepdim=True)

    def single_token_axis(self, purpose: str) -> int:
        """The one token axis.

        Raises:
            ValueError: there are several, so that tokens have no order; ``purpose`` says what needs one.
        """
        if len(self.token_axes) != 1:
            raise ValueError(f"{purpose} needs a single token axis, and the site has {len(self.token_axes)}")
        return self.token_axes[0]

    def per_channel(self, vector: Tensor, like: Tensor) -> Tensor:
        """Shape a ``[C]`` vector so that it broadcasts along the channel axis of ``like``."""
        shape = [1] * like.dim()
        shape[self.channel_axis] = self.channels
        return vector.view(shape)

    def extra_repr(self) -> str:
        """Channels, axes and options, for ``print(module)``."""
        options = "".join(f", {key}={value!r}" for key, value in self.options().items())
        return f"channels={self.channels}, channel_axis={self.channel_axis}, token_axes={self.token_axes}{options}"
