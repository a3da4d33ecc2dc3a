"""Insertion into a program as a pass of a ``torch.fx`` ``PassManager``."""

from __future__ import annotations

from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from cbsurgeon.errors import SurgeryError
from cbsurgeon.graph.program import wrap
from cbsurgeon.surgery.program import rewrite
from cbsurgeon.surgery.recipe import Recipe


class InsertPass(PassBase):  # type: ignore[misc]
    """Insert a recipe's operators into the graph of an exported program.

    ``PassManager`` calls a pass with a graph module. A graph module does not record which of its placeholders are
    parameters, so the program that it belongs to is given to the constructor. The pass changes neither that program nor
    the graph module. Its result is the edited graph module, and :attr:`exported` is the edited program.

    Args:
        exported: the program whose ``graph_module`` the pass will be called with.
        recipe: what to insert where.

    Example:
        ``InsertPass(program, recipe)(program.graph_module).graph_module``
    """

    def __init__(self, exported: ExportedProgram, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.source = exported
        self.exported: ExportedProgram | None = None

    def requires(self, graph_module: fx.GraphModule) -> None:
        """Check that the graph is that of the program the pass was made for.

        Raises:
            SurgeryError: another pass has changed it, or it is another program's (CB-SURGERY-07).
        """
        if graph_module is self.source.graph_module or str(graph_module.graph) == str(self.source.graph):
            return
        raise SurgeryError(
            "the graph is not that of the program the pass was made for",
            code="CB-SURGERY-07",
            where="InsertPass",
            why="new parameters are added to the signature of that program, which fits no other graph",
            do="run this pass first, or make it from the changed program",
        )

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Insert; a recipe without an enabled site changes nothing.

        Raises:
            SurgeryError: the structure is not the recipe's, or a site is occupied.
        """
        if not self.recipe.active:
            self.exported = self.source
            return PassResult(graph_module, False)
        self.exported = rewrite(wrap(self.source), self.recipe).exported
        return PassResult(self.exported.graph_module, True)
