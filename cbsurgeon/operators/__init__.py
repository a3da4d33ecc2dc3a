"""The operators: one file for each, with its formula, its forms, its cost and what export can fold of it.

``base`` is what an operator of your own subclasses and lists what it may define. ``context`` and ``class_token`` are
the bases of operators around the mean of the tokens and of operators that read the class token. ``registry`` finds an
operator by its name. Nothing outside this package compares operators' names: other packages ask the operator.

Not here: where an operator can stand (``graph``), putting it there (``surgery``).
"""

from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.cb import CB
from cbsurgeon.operators.cb_gate import CBGate
from cbsurgeon.operators.cb_hybrid import CBHybrid
from cbsurgeon.operators.cb_retrofit import CBRetrofit, set_strength
from cbsurgeon.operators.cb_s import CBS
from cbsurgeon.operators.common.cost import Cost, Folding, Traffic
from cbsurgeon.operators.common.decay import parameter_groups
from cbsurgeon.operators.registry import build, names
from cbsurgeon.operators.se import SE
from cbsurgeon.operators.uniform_head import UniformHead

__all__ = [
    "CB",
    "CBS",
    "SE",
    "CBGate",
    "CBHybrid",
    "CBRetrofit",
    "Cost",
    "Folding",
    "Operator",
    "Traffic",
    "UniformHead",
    "build",
    "names",
    "parameter_groups",
    "set_strength",
]
