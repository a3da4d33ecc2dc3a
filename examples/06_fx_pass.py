"""Insert a recipe as one pass of a torch.fx PassManager, between passes of your own.

    pip install 'cbsurgeon[timm]'
    python examples/06_fx_pass.py

About ten seconds on two cores. A pass gets a graph module, which does not record which of its inputs are parameters.
Therefore cbsurgeon's pass is created with the exported program; afterwards its attribute `exported` is the edited
program.
"""

from __future__ import annotations

import timm
import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.infra.pass_manager import PassManager

import cbsurgeon as cbs
from cbsurgeon.surgery import InsertPass


class CountAdditions(PassBase):
    """A pass of your own: counts residual and other additions, and changes nothing."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        additions = [node for node in graph_module.graph.nodes if "aten.add" in str(node.target)]
        print(f"additions in the graph: {len(additions)}")
        return PassResult(graph_module, False)


def main() -> None:
    torch.manual_seed(0)
    module = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=4, embed_dim=96, num_heads=3).eval()
    images = torch.randn(2, 3, 64, 64)
    recipe = cbs.plan(cbs.inspect(cbs.Model(module, (images,))), op="cb_s", layers="all")

    program = torch.export.export(module, (images,))
    insert = InsertPass(program, recipe)
    result = PassManager([CountAdditions(), insert, CountAdditions()])(program.graph_module)
    print(f"changed: {result.modified}; {len(recipe.indices)} operators inserted")

    assert insert.exported is not None
    with torch.no_grad():
        same = torch.equal(insert.exported.module()(images), program.module()(images))
    print(f"cb_s starts as the identity: {same}")


if __name__ == "__main__":
    main()
