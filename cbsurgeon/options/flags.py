"""Dataclass fields with a flag and a help text, and functions that build an options object from keywords."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.options.texts import BadText

Options = TypeVar("Options")
Function = TypeVar("Function", bound=Callable[..., Any])

KEY = "flag"
"""Key of a field's metadata under which its :class:`Flag` is stored."""


@dataclass(frozen=True)
class Flag:
    """The flag and the help text of one field.

    Attributes:
        help: one or two sentences, the same in ``--help`` and in Python's ``help()``.
        name: the flag, such as ``--model-option``; empty for a field that has no flag.
        alias: a second spelling of the flag; in Python it is a second keyword.
        off: the flag that turns a switch off, such as ``--no-fold``.
        metavar: the placeholder of the value in ``--help``.
        choices: the allowed values, if there is a short list of them.
        read: converts the typed text to the value; ``None`` keeps the text.
        number: ``int`` or ``float``, if the value is a plain number.
        least: the smallest number allowed.
        most: the largest whole number allowed.
        shown: the default as ``--help`` shows it; if empty, no default is shown.
        repeatable: the flag may be given several times, and ``read`` gets all texts as one tuple.
    """

    help: str
    name: str = ""
    alias: str = ""
    off: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None
    number: type[int] | type[float] | None = None
    least: float | None = None
    most: int = (1 << 63) - 1
    shown: str = ""
    repeatable: bool = False


def option(default: Any, help: str, name: str = "", **how: Any) -> Any:
    """Return a dataclass field whose metadata holds its flag.

    Args:
        default: the field's default; a mutable one is copied for each object.
        help: its help text.
        name: its flag; if empty, the field is for Python only.
        how: the other attributes of :class:`Flag`.
    """
    metadata = {KEY: Flag(help, name, **how)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def memory_limit() -> Any:
    """Return the field ``max_memory`` of verbs that run models; on the command line it comes from ``Loading``."""
    return option(None, "Limit for the memory of a run, in bytes.", shown="the memory that is free")


def flags_of(kind: type) -> dict[str, Flag]:
    """Field name → its flag, in the order of the fields; fields without a flag are left out."""
    return {one.name: one.metadata[KEY] for one in dataclasses.fields(kind) if one.metadata[KEY].name}


def fields_of(kind: type) -> tuple[str, ...]:
    """The names of all fields."""
    return tuple(one.name for one in dataclasses.fields(kind))


def default_of(kind: type, field: str) -> Any:
    """The default of one field."""
    return next(_default(one) for one in dataclasses.fields(kind) if one.name == field)


def resolve(kind: type[Options], given: Options | None, keywords: Mapping[str, Any], function: str) -> Options:
    """Return the options object that a caller gave as an object, as keywords, or as both (keywords override).

    A keyword that is not a field goes into the field ``options``, if the class has ``TAKES_MORE``.

    Args:
        kind: the options class.
        given: the object the caller passed, if there is one.
        keywords: the keywords that the caller passed, by field name.
        function: the function that was called, for the message.

    Raises:
        UsageError: ``given`` is of another class, a keyword is not a field, or a text does not have the form that the
            flag takes (CB-OPTION-01).
    """
    known = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    keywords = {_by_alias(kind).get(name, name): value for name, value in keywords.items()}
    if given is not None and not isinstance(given, kind):
        raise UsageError(
            f"{function}() takes its options as keywords or as one {kind.__name__}",
            code="CB-OPTION-01",
            where=f"{function}(..., {given!r})",
            why=f"it was given {type(given).__name__}",
            do=f"{function}(..., {min(known)}=...) or {function}(..., {kind.__name__}(...))",
        )
    extra = {name: value for name, value in keywords.items() if name not in known}
    if extra and not getattr(kind, "TAKES_MORE", False):
        raise UsageError(
            f"{function}() has no option {next(iter(extra))!r}",
            code="CB-OPTION-01",
            where=f"{function}({next(iter(extra))}=...)",
            why=f"its options are {', '.join(sorted(known))}",
            do=did_you_mean(next(iter(extra)), known) or "leave it out",
        )
    fields = {name: _value(known[name], value, function) for name, value in keywords.items() if name in known}
    if extra:
        fields["options"] = {**(fields.get("options") or getattr(given, "options", None) or {}), **extra}
    return kind(**fields) if given is None else dataclasses.replace(given, **fields)  # type: ignore[type-var]


def _value(field: dataclasses.Field[Any], value: Any, function: str) -> Any:
    """Return a keyword's value; the text of the command line is read as there, and a single number as a list of one."""
    flag: Flag = field.metadata[KEY]
    whole = isinstance(value, int) and not isinstance(value, bool)
    takes_a_pair = "tuple" in str(field.type)
    if isinstance(field.default, str) and not takes_a_pair and (whole or _is_list(value)):
        return ",".join(map(str, value)) if _is_list(value) else str(value)
    single = whole and re.search("tuple|Sequence", str(field.type))
    takes_text = str(field.type).startswith("str")
    if flag.read is None or takes_text or not (isinstance(value, str) or single):
        return value
    try:
        return flag.read((str(value),) if flag.repeatable else str(value))
    except BadText as error:
        if single:
            return value  # the function that uses the number refuses it
        raise UsageError(
            f"{field.name} has another form",
            code="CB-OPTION-01",
            where=f"{function}({field.name}={value!r})",
            why=f"as text, it {error.takes}",
            do=f"{function}({field.name}={error.example!r})",
        ) from error


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, int | str) for one in value)


def documented(*kinds: type) -> Callable[[Function], Function]:
    """Decorator: ``help(function)`` lists the fields of the options it takes as keywords, and editors complete them."""

    def decorate(function: Function) -> Function:
        fields = [one for kind in kinds for one in dataclasses.fields(kind)]
        lines = [f"    {one.name}: {one.metadata[KEY].help} Default: {_shown(one)}." for one in fields]
        names = " and ".join(f":class:`{kind.__name__}`" for kind in kinds)
        text = inspect.cleandoc(function.__doc__ or "")

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        called.__doc__ = f"{text}\n\nKeywords (the fields of {names}):\n" + "\n".join(lines)
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=_default(one), annotation=one.type)
            for one in fields
        ]
        called.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
        return called  # type: ignore[return-value]

    return decorate


def _by_alias(kind: type) -> dict[str, str]:
    """The alias of a field, as a keyword → the name of the field."""
    named = ((one.metadata[KEY].alias, one.name) for one in dataclasses.fields(kind))
    return {alias.removeprefix("--").replace("-", "_"): name for alias, name in named if alias}


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()


def _shown(one: dataclasses.Field[Any]) -> str:
    flag: Flag = one.metadata[KEY]
    return flag.shown or repr(_default(one))
