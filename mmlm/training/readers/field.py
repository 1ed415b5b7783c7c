"""Part of the readers: a cursor into a record, so that every complaint names the record, the field and what came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mmlm.errors import InputError

T = TypeVar("T")
MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Field:
    """A value inside a record: `where` the record stands ("train.json:17"), the way to the value, and the value."""

    where: str
    name: str
    value: Any

    def refuse(self, expected: str) -> InputError:
        """The error that says what was expected here and what came."""
        return InputError(f"{self.where}: {self.name or 'record'}: expected {expected}, got {describe(self.value)}")

    def __getitem__(self, key: str) -> "Field":
        """The field `key` of an object; it may be missing."""
        return Field(self.where, f"{self.name}.{key}" if self.name else key, self.object().get(key, MISSING))

    @property
    def present(self) -> bool:
        """False where the field is missing or null."""
        return self.value is not MISSING and self.value is not None

    def object(self) -> dict[str, Any]:
        """The value as an object."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        return self.value

    def elements(self) -> list["Field"]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        return [Field(self.where, f"{self.name}[{i}]", v) for i, v in enumerate(self.value)]

    def text(self, *, blank: bool = False) -> str:
        """The value as text that UTF-8 can hold and that, unless `blank`, says something."""
        if not isinstance(self.value, str):
            raise self.refuse("text")
        if not blank and not self.value.strip():
            raise self.refuse("text that is not empty")
        if not self.value.isascii():
            try:
                self.value.encode()
            except UnicodeEncodeError as e:
                raise self.refuse(f"text in valid Unicode (there is half a surrogate pair at {e.start})") from e
        return self.value

    def identity(self) -> str:
        """The value as a name: text or a whole number."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            return str(self.value)
        if not isinstance(self.value, str):
            raise self.refuse("text or a whole number")
        return self.text()

    def one_of(self, table: Mapping[str, T]) -> T:
        """What `table` says of the value, which must be one of its keys."""
        if not isinstance(self.value, str) or self.value not in table:
            raise self.refuse(f"one of {', '.join(table)}")
        return table[self.value]


def describe(value: object) -> str:
    """A few words for a value that came instead of the expected one."""
    if value is MISSING:
        return "nothing"
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, list(value)[:5]))}" if value else "an empty object"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
