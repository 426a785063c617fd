"""Values of a foreign JSON configuration, each checked as it is taken."""

import dataclasses
from collections.abc import Mapping
from typing import Any, overload

from alpaca_jax.support.errors import UserError, shorten

# Larger numbers are infinite in float32.
_LARGEST = 3e38


@dataclasses.dataclass(frozen=True)
class ConfigValues:
    """A JSON object of a configuration; a value of null counts as absent.

    Attributes:
      values: the object.
      subject: where it stands, for messages.
    """

    values: Mapping[str, Any]
    subject: str

    @overload
    def integer(self, key: str, default: int) -> int: ...
    @overload
    def integer(self, key: str, default: None) -> int | None: ...
    @overload
    def integer(self, key: str) -> int: ...
    def integer(self, key: str, default: Any = ...) -> Any:
        """A positive whole number, or `default` where there is none; without a default there must be one."""
        value = self.values.get(key)
        if value is None and default is not ...:
            return default
        if type(value) is not int or value <= 0:
            raise self.refuse(key, "a positive whole number")
        return value

    @overload
    def real(self, key: str, default: float) -> float: ...
    @overload
    def real(self, key: str, default: None) -> float | None: ...
    @overload
    def real(self, key: str) -> float: ...
    def real(self, key: str, default: Any = ...) -> Any:
        """A positive number, or `default` where there is none; without a default there must be one."""
        value = self.values.get(key)
        if value is None and default is not ...:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
            raise self.refuse(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def neutral(self, key: str, allowed: tuple[Any, ...]) -> None:
        """Refuses a value other than those that change nothing; a key that is absent changes nothing."""
        if key in self.values and self.values[key] not in allowed:
            raise self.refuse(key, " or ".join("none" if value is None else repr(value) for value in allowed))

    def refuse(self, key: str, expected: str) -> UserError:
        """The error for the value under a key."""
        value = self.values.get(key)
        return UserError(
            f"{self.subject}, {key}",
            expected=expected,
            found="none" if value is None else shorten(value),
            remedy="choose another model; this version computes LLaMA, Mistral, Qwen 2 and Qwen 3, and nothing else",
        )
