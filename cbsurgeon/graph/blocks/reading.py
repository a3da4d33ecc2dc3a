"""The state of reading a program: axes, module calls, occurrences of blocks, rejected candidates."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import fx

from cbsurgeon.graph.axes.flow import Flow
from cbsurgeon.graph.block import Kind, Rejected, Site
from cbsurgeon.graph.branches.branch import Branch
from cbsurgeon.graph.branches.lineage import Lineage
from cbsurgeon.graph.branches.modules import ModuleCalls


@dataclass(frozen=True)
class Found:
    """One occurrence of a block: a branch, what it is, and its sites."""

    branch: Branch
    kind: Kind
    channels: int
    tokens: int
    token_axes: tuple[int, ...]
    sites: dict[str, Site]
    unavailable: dict[str, str]


@dataclass
class Reading:
    """Everything read from one program.

    Attributes:
        flow: axis factors.
        calls: module calls.
        found: occurrences of blocks (attention included), in graph order.
        rejected: down projection → rejected candidate, so that each has one reason.
        lineage: the residual stream that each tensor belongs to.
    """

    flow: Flow
    calls: ModuleCalls
    found: list[Found] = field(default_factory=list)
    rejected: dict[fx.Node, Rejected] = field(default_factory=dict)
    lineage: Lineage = field(init=False)

    def __post_init__(self) -> None:
        self.lineage = Lineage(self.flow)
