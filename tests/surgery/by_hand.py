"""An independent reference: the unedited graph, run node by node, recorded sites averaged by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from cbsurgeon.graph import Program
from cbsurgeon.graph.block import Site
from cbsurgeon.graph.capture.execution import flat_inputs

Formula = Callable[[Tensor], Tensor]
"""What an operator does to [samples, tokens, channels] in double precision."""


def mean(x: Tensor) -> Tensor:
    """Mean over the tokens of [samples, tokens, channels], summed one token at a time."""
    total = torch.zeros_like(x[:, :1])
    for token in range(x.shape[1]):
        total = total + x[:, token : token + 1]
    return total / x.shape[1]


def running_mean(x: Tensor) -> Tensor:
    """Every token's mean of those up to it."""
    return torch.cat([mean(x[:, : last + 1]) for last in range(x.shape[1])], dim=1)


def formula(op: str, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> Formula:
    """The paper's formulas: eq. 1 (CB), section 3.2 (CB_S), appendix B.7 (gate, hybrid); Hu et al. (SE).

    Args:
        op: name of the operator.
        options: its form: ``tokens`` and ``causal``; ``class_token``.
        state: its parameters and buffers, by their own names.
    """
    values = {name: tensor.detach().double() for name, tensor in state.items()}
    context = running_mean if options.get("causal") else mean
    start, stop = (int(end) if end else None for end in str(options.get("tokens", ":")).split(":"))
    place = options.get("class_token", 0)

    def squeeze_excite(x: Tensor) -> Tensor:
        hidden = (mean(x) @ values["fc1.weight"].T + values["fc1.bias"]).clamp_min(0)
        return x / (1 + (-(hidden @ values["fc2.weight"].T + values["fc2.bias"])).exp())

    formulas: dict[str, Formula] = {
        "cb": lambda x: (x + context(x)) / 2,
        "cb_s": lambda x: x + values["scale"] * context(x),
        "cb_gate": lambda x: x * (x[:, place : place + 1] + 1),
        "cb_hybrid": lambda x: x * x[:, place : place + 1] + (x + mean(x)) / 2,
        "cb_retrofit": lambda x: (1 - values["strength"]) * x + values["strength"] * context(x),
        "se": squeeze_excite,
        "bent": lambda x: x + values["by"] * x.tanh(),
    }
    chosen = formulas[op]

    def on_slice(x: Tensor) -> Tensor:
        result = x.clone()
        result[:, start:stop] = chosen(x[:, start:stop])
        return result

    return on_slice


def at(site: Site, what: Formula) -> Formula:
    """A formula applied to the tensor of a site, for any order of its axes; an axis that samples and tokens share is
    split first."""

    def apply(x: Tensor) -> Tensor:
        if site.unfold is None:
            return whole(x)
        shared = site.unfold.axis
        pieces = [size for size in (site.unfold.before, -1, site.unfold.after) if size != 1]
        return whole(x.unflatten(shared, pieces)).flatten(shared, shared + len(pieces) - 1)

    def whole(x: Tensor) -> Tensor:
        rest = [axis for axis in range(x.dim()) if axis != site.channel_axis and axis not in site.token_axes]
        order = [*rest, *site.token_axes, site.channel_axis]
        moved = x.double().permute(order)
        samples, tokens = math.prod(moved.shape[: len(rest)]), math.prod(moved.shape[len(rest) : -1])
        changed = what(moved.reshape(samples, tokens, moved.shape[-1])).reshape(moved.shape)
        return changed.permute([order.index(axis) for axis in range(x.dim())]).to(x.dtype)

    return apply


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
