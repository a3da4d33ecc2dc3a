"""An independent reference: the unedited graph, run node by node, recorded sites averaged by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph import Program
from cbsurgeon.graph.block import Site
from cbsurgeon.graph.execute import flat_inputs


def average(x: Tensor, token_axes: Sequence[int]) -> Tensor:
    """Mean over the token axes, one sample and channel at a time, without any reduction of the library's operators."""
    order = [axis for axis in range(x.dim()) if axis not in token_axes]
    flat = x.double().permute(*order, *token_axes).flatten(len(order))
    total = torch.zeros(flat.shape[:-1], dtype=torch.float64)
    for token in range(flat.shape[-1]):
        total += flat[..., token]
    mean = total / flat.shape[-1]
    for axis in sorted(token_axes):
        mean = mean.unsqueeze(axis)
    return mean


def cb(x: Tensor, site: Site) -> Tensor:
    """Eq. 1 of the paper in double precision."""
    return ((x.double() + average(x, site.token_axes)) / 2).to(x.dtype)


def cb_s(x: Tensor, site: Site, scale: Tensor) -> Tensor:
    """Section 3.2 of the paper in double precision; the scale of channel c meets channel c."""
    mean = average(x, site.token_axes).movedim(site.channel_axis, -1)
    scaled = (mean * scale.double()).movedim(-1, site.channel_axis)
    return (x.double() + scaled).to(x.dtype)


class _Edited(fx.Interpreter):
    """Runs a graph; at each site the readers it names, or all of them, get the operator's result."""

    def __init__(self, module: fx.GraphModule, sites: Mapping[str, tuple[Site, Any]]) -> None:
        super().__init__(module)
        self.whole: dict[str, Any] = {}
        self.partly: dict[str, list[tuple[str, Any]]] = {}
        for site, operator in sites.values():
            for use in site.uses:
                if not use.consumers:
                    self.whole[use.value] = operator
                for consumer in use.consumers:
                    self.partly.setdefault(consumer, []).append((use.value, operator))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        return self.whole[n.name](result) if n.name in self.whole else result

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        changed = {}
        for name, operator in self.partly.get(n.name, ()):
            node = next(source for source in n.all_input_nodes if source.name == name)
            changed[node] = self.env[node]
            self.env[node] = operator(self.env[node])
        try:
            return super().fetch_args_kwargs_from_env(n)
        finally:
            self.env.update(changed)


def run(program: Program, sites: Mapping[str, tuple[Site, Any]], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Flat outputs of the graph with operators at sites.

    Args:
        program: the unedited program.
        sites: label → a site and a function of its tensor.
        inputs: by name.
    """
    with torch.no_grad():
        result = _Edited(program.exported.graph_module, sites).run(*flat_inputs(program, inputs))
    # What a program returns starts with the buffers it writes; none of these models does.
    return [value for value in result if isinstance(value, Tensor)]
