"""The check that a kernel must pass before a run trusts it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from alpaca_jax.model import attention_kernels, attention_parity
from alpaca_jax.model.attention_choice import Choice, Need
from alpaca_jax.model.attention_kernels import Kernel
from alpaca_jax.support.errors import UserError
from tests.models import SMALL


def test_the_parity_check_believes_a_kernel_that_is_right_and_names_one_that_is_not(monkeypatch):
    need = Need(dataclasses.replace(SMALL, sliding_window=60), 256, "bfloat16")
    assert (
        0
        < attention_parity.check_attention(Choice(Kernel("splash", interpret=True), need, ""))
        < attention_parity.TOLERANCE
    )
    exact = attention_kernels._PREPARE["xla"]

    def one_place_too_many(kernel: Kernel, ids: jax.Array, window: int) -> Any:
        return exact(kernel, ids, window + 1)

    def without_segments(kernel: Kernel, ids: jax.Array, window: int) -> Any:
        return exact(kernel, jnp.ones_like(ids), window)

    for wrong in (one_place_too_many, without_segments):
        monkeypatch.setitem(attention_kernels._PREPARE, "cudnn", wrong)
        with pytest.raises(UserError, match=r"attention kernel 'cudnn'.*values \d+.*model\.attention=xla"):
            attention_parity.check_attention(Choice(Kernel("cudnn"), need, ""))
