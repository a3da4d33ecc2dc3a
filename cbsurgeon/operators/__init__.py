"""The operators: one file for each, with its formula, its forms, its cost, and what export can fold into weights.

``base`` is the base class of every operator, and lists what an operator of your own may define. ``context`` is the base
of operators that use the token mean, ``class_token`` of those that read the class token. ``registry`` finds an operator
by its name. No other package compares operators' names; they call the operator's methods.

Not here: finding the sites where an operator can be inserted (``graph``), inserting it (``surgery``).
"""

from cbsurgeon.operators.base import Operator, recipes_of
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
    "recipes_of",
    "set_strength",
]
