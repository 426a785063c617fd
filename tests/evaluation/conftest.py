"""Short waits, and a key that must never be written."""

import pytest

from alpaca_jax.remote import client

KEY = "sk-a-key-that-no-file-may-hold"


@pytest.fixture
def asked_quickly(monkeypatch: pytest.MonkeyPatch):
    """For tests that ask a server."""
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(client, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
