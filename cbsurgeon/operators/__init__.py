"""The mathematics of Context Broadcasting: what is done to a tensor of tokens, and what it costs."""

from cbsurgeon.operators.base import Cost, Operator
from cbsurgeon.operators.class_token import CBGate, CBHybrid
from cbsurgeon.operators.context import CB, CBS
from cbsurgeon.operators.decay import parameter_groups
from cbsurgeon.operators.registry import build, names
from cbsurgeon.operators.retrofit import CBRetrofit, set_strength
from cbsurgeon.operators.squeeze import SE

__all__ = [
    "CB",
    "CBS",
    "SE",
    "CBGate",
    "CBHybrid",
    "CBRetrofit",
    "Cost",
    "Operator",
    "build",
    "names",
    "parameter_groups",
    "set_strength",
]
