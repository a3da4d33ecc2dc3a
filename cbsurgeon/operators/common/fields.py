"""Reading the fields of a JSON object that people edit by hand: exact types, and no unknown names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cbsurgeon.errors import did_you_mean

_REQUIRED: Any = object()


class Fields:
    """One JSON object. Each method reads one field; :meth:`finish` refuses fields that nobody read.

    A value of another type is refused instead of converted: ``"false"`` would become true, and 1.9 would become 1.

    Args:
        document: the object.
        name: what it is, for messages.
    """

    def __init__(self, document: Any, name: str) -> None:
        if not isinstance(document, Mapping):
            raise ValueError(f"{name} is {_described(document)}, not an object")
        self._document, self._name, self._read = document, name, dict.fromkeys(("schema",))

    def get(self, field: str, default: Any = _REQUIRED) -> Any:
        """Return a field of any type.

        Raises:
            ValueError: it is missing.
        """
        self._read[field] = None
        if field in self._document:
            return self._document[field]
        if default is _REQUIRED:
            raise ValueError(f"{self._name} has no {field!r}")
        return default

    def text(self, field: str, default: Any = _REQUIRED, among: Collection[str] = ()) -> str:
        """Return a text, which must be one of ``among`` if they are given."""
        value = self._of(field, default, str, "a text")
        if among and value not in among:
            raise ValueError(f"{field} of {self._name} is {value!r}, not one of {', '.join(among)}")
        return str(value)

    def flag(self, field: str, default: Any = _REQUIRED) -> bool:
        """Return a truth value."""
        return bool(self._of(field, default, bool, "true or false"))

    def whole(self, field: str, default: Any = _REQUIRED, least: int = 0) -> int:
        """Return a whole number that is not smaller than ``least``."""
        value = self.get(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{field} of {self._name} is {_described(value)}, not a whole number from {least}")
        return value

    def wholes(self, field: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        """Return a list of different whole numbers, none below 0."""
        value = self.list(field, default)
        if any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in value):
            raise ValueError(
                f"{field} of {self._name} is {_described(list(value))}, not a list of whole numbers from 0"
            )
        if len(set(value)) != len(value):
            raise ValueError(f"{field} of {self._name} has a number twice: {list(value)}")
        return value

    def list(self, field: str, default: Any = _REQUIRED) -> tuple[Any, ...]:
        """Return a list as a tuple."""
        return tuple(self._of(field, default, (list, tuple), "a list"))

    def object(self, field: str, default: Any = _REQUIRED) -> dict[str, Any]:
        """Return an object as a dictionary."""
        return dict(self._of(field, default, Mapping, "an object"))

    def all(self) -> dict[str, Any]:
        """Return every field, for an object that may have any."""
        return dict(self._document)

    def finish(self) -> None:
        """Refuse an object with a field that was not read.

        Raises:
            ValueError: it has such a field.
        """
        unknown = [str(field) for field in self._document if field not in self._read]
        if unknown:
            near = did_you_mean(unknown[0], [field for field in self._read if field != "schema"])
            raise ValueError(f"{self._name} has an unknown field {unknown[0]!r}. {near}".strip(" ."))

    def _of(self, field: str, default: Any, kind: Any, expected: str) -> Any:
        value = self.get(field, default)
        if not isinstance(value, kind):
            raise ValueError(f"{field} of {self._name} is {_described(value)}, not {expected}")
        return value


def _described(value: Any) -> str:
    return repr(value)[:60]
