"""Holds a description's values against the types that its fields declare."""

import dataclasses
import math
import types
from typing import Any

from alpaca_jax.support.errors import UserError, shorten

_WORDS = {bool: "true or false", int: "a positive int", float: "a positive float", types.NoneType: "none"}


def check_fields(description: Any, subject: str) -> None:
    """Refuses a dataclass with a value that is not of its field's very type, or a number that is not positive.

    Args:
      description: the dataclass; its fields are bool, int, float, other classes, or unions of those.
      subject: put before the field's name in the error.

    Raises:
      UserError: a value does not fit; its field is named.
    """
    for field in dataclasses.fields(description):
        value = getattr(description, field.name)
        allowed = field.type.__args__ if isinstance(field.type, types.UnionType) else (field.type,)
        is_number = type(value) in (int, float)
        if type(value) not in allowed or (is_number and not 0 < value < math.inf):
            raise UserError(
                f"{subject}{field.name}",
                expected=" or ".join(_WORDS.get(kind, kind.__name__) for kind in allowed),
                found=shorten(value),
                remedy="check where the description comes from",
            )
