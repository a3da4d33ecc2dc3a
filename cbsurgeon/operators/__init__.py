"""The mathematics of Context Broadcasting: what is done to a tensor of tokens, and what it costs."""

from cbsurgeon.operators.base import Cost, Operator
from cbsurgeon.operators.context import CB, CBS
from cbsurgeon.operators.registry import build, names

__all__ = ["CB", "CBS", "Cost", "Operator", "build", "names"]
