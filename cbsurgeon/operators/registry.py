"""Operators by name: the built-in ones, and a user's own as ``mod:package.module:Class``."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from cbsurgeon.errors import UsageError, did_you_mean, nearest
from cbsurgeon.operators.base import Operator
from cbsurgeon.operators.cb import CB
from cbsurgeon.operators.cb_gate import CBGate
from cbsurgeon.operators.cb_hybrid import CBHybrid
from cbsurgeon.operators.cb_retrofit import CBRetrofit
from cbsurgeon.operators.cb_s import CBS
from cbsurgeon.operators.se import SE
from cbsurgeon.operators.uniform_head import UniformHead

_OPERATORS: dict[str, type[Operator]] = {
    cls.name: cls for cls in (CB, CBS, CBGate, CBHybrid, CBRetrofit, SE, UniformHead)
}

_SITE_PARAMETERS = ("channels", "channel_axis", "token_axes")
"""The arguments that every operator's constructor gets from its site, before the options of the user."""

USERS = "mod:"
"""Prefix of the name of a user's own operator."""


def names() -> tuple[str, ...]:
    """The built-in operator names, in the order they are documented."""
    return tuple(_OPERATORS)


def having(form: str) -> tuple[str, ...]:
    """Names of the built-in operators that take an option of :class:`Context`: ``tokens``, ``causal`` or ``masked``."""
    return tuple(name for name, kind in _OPERATORS.items() if form in kind.forms)


def classes() -> dict[str, type[Operator]]:
    """Every operator class that has been imported, a user's own included, by its full class name.

    ``torch.export`` writes that name into the module stack of an operator's nodes.
    """
    found: dict[str, type[Operator]] = {}
    pending = [Operator]
    while pending:
        below = pending.pop().__subclasses__()
        pending += below
        found.update({f"{kind.__module__}.{kind.__qualname__}": kind for kind in below if hasattr(kind, "name")})
    return found


def operator_class(name: str) -> type[Operator]:
    """Return the class of an operator; a user's own is imported.

    Raises:
        UsageError: the name is unknown (CB-OP-01; the nearest names are given), or names no operator class (CB-OP-04).
    """
    if name.startswith(USERS):
        return _users_class(name)
    try:
        return _OPERATORS[name]
    except KeyError:
        raise UsageError(
            f"unknown operator {name!r}",
            code="CB-OP-01",
            where="--op",
            why=f"the operators are {', '.join(_OPERATORS)}, or your own as mod:package.module:Class",
            do=did_you_mean(name, _OPERATORS, "--op ") or f"--op {CB.name}",
        ) from None


def needs_import(name: str) -> bool:
    """Whether finding this operator would import a module that nobody has imported yet."""
    return name.startswith(USERS) and name.removeprefix(USERS).partition(":")[0] not in sys.modules


def _users_class(name: str) -> type[Operator]:
    module, colon, attribute = name.removeprefix(USERS).partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise _no_operator(name, "it is not of the form mod:package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # the user's module may raise any exception
        raise _no_operator(name, f"importing {module} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Operator):
        raise _no_operator(name, f"{attribute} is not a subclass of cbsurgeon.Operator")
    if not isinstance(getattr(found, "name", None), str):
        raise _no_operator(name, f'{attribute} has no name; give the class one: name = "{attribute.lower()}"')
    return found


def _wrong_options(name: str, cls: type[Operator], options: dict[str, Any], error: TypeError) -> UsageError:
    parameters = list(inspect.signature(cls).parameters)
    own = [parameter for parameter in parameters if parameter not in _SITE_PARAMETERS]
    unknown = [option for option in options if option not in parameters]
    near = nearest(unknown[0], own, 1) if unknown else []
    return UsageError(
        f"operator {name} has no option {unknown[0]!r}" if unknown else f"operator {name} does not take these options",
        code="CB-OP-02",
        where=", ".join(f"{key}={value}" for key, value in options.items()),
        why=f"its options are {', '.join(own) or 'none'}"
        if unknown
        else str(error).replace(f"{cls.__name__}.__init__() ", ""),
        do=f"did you mean --op-option {near[0]}={options[unknown[0]]}?"
        if near
        else "leave it out"
        if unknown
        else f"give {', '.join(own)} values of the right type",
    )


def _no_operator(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} is not an operator",
        code="CB-OP-04",
        where="--op",
        why=why,
        do="class Mine(cbsurgeon.Operator) with a name and forward(x); its constructor takes channels, channel_axis, "
        "token_axes and your options",
    )


def build(
    name: str, channels: int, channel_axis: int, token_axes: Sequence[int], options: dict[str, Any] | None = None
) -> Operator:
    """Build an operator for one site.

    Raises:
        UsageError: unknown name (CB-OP-01), options the operator does not take (CB-OP-02), or values or axes it
            cannot work with (CB-OP-03).
    """
    cls = operator_class(name)
    try:
        return cls(channels, channel_axis, token_axes, **(options or {}))
    except TypeError as error:
        raise _wrong_options(name, cls, options or {}, error) from None
    except ValueError as error:
        raise UsageError(
            f"operator {name} cannot be built for this site",
            code="CB-OP-03",
            where=", ".join(f"{key}={value}" for key, value in (options or {}).items()),
            why=str(error),
            do="choose another operator or option, or other --layers",
        ) from None
