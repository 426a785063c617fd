"""Where a server and its key come from, and what is refused before anything is sent."""

import pytest

from alpaca_jax.remote.connection import key_and_address
from alpaca_jax.support.errors import UserError

HERE, THERE = "http://127.0.0.1:1/v1", "https://example.org/v1"


@pytest.mark.parametrize(
    ("base_url", "environment", "found"),
    [
        (None, {"OPENAI_API_KEY": "k"}, ("k", None)),
        (HERE, {}, ("", HERE)),
        (None, {"OPENAI_BASE_URL": THERE}, ("", THERE)),
        (HERE, {"OPENAI_BASE_URL": THERE, "OPENAI_API_KEY": "k"}, ("k", HERE)),
        (None, {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": "k"}, ("k", None)),
    ],
)
def test_what_the_user_gives_comes_before_the_environment(base_url, environment, found):
    assert key_and_address(base_url, environment) == found


@pytest.mark.parametrize(
    ("base_url", "environment", "said"),
    [
        (None, {}, "OPENAI_API_KEY: expected the key in the environment; found no such variable. Set it, or name a "),
        ("localhost:8000", {}, "--there: expected an http or https address; found localhost:8000"),
        ("http://localhost:99999/v1", {}, "--there: expected an http or https address"),
        ("http://localhost:abc/v1", {}, "--there: expected an http or https address"),
        ("http://local\nhost/v1", {}, "--there: expected an http or https address"),
        (None, {"OPENAI_BASE_URL": "localhost"}, "OPENAI_BASE_URL: expected an http or https address"),
    ],
)
def test_an_address_that_is_none_is_named_by_where_it_stands(base_url, environment, said):
    with pytest.raises(UserError) as refused:
        key_and_address(base_url, environment, "--there")
    assert str(refused.value).startswith(said)


def test_the_processs_own_environment_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", HERE)
    assert key_and_address(None) == ("k", HERE)
