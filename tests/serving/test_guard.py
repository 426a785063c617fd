"""Who may ask."""

import base64
from pathlib import Path

import pytest
from openai import AuthenticationError, OpenAI

from alpaca_jax.serving.service import ServedModel, Service
from tests.serving.server import Served, ask, running

KEY = "a key of forty letters, more or less::"


@pytest.fixture(scope="module")
def guarded(model: ServedModel, tmp_path_factory: pytest.TempPathFactory):
    with running(Service([model]), tmp_path_factory.mktemp("guarded"), key=KEY) as server:
        yield server


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/completions", "/metrics", "/gradio_api/info"])
def test_nothing_is_to_be_had_without_the_key(guarded: Served, path: str):
    for header in ("", "Bearer", "Bearer wrong", f"Bearer {KEY[:-1]}", f"Token {KEY[:-1]}", "Basic !", basic("wrong")):
        refused = ask(guarded.port, path, **({"Authorization": header} if header else {}))
        assert refused.status == 401, header
        assert refused.body["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"].startswith("Basic")


def test_the_key_opens_as_a_token_and_in_a_browsers_dialogue(guarded: Served):
    assert ask(guarded.port, "/healthz").status == 200
    assert ask(guarded.port, "/", Authorization=basic(KEY)).status == 200
    assert ask(guarded.port, "/v1/models", Authorization=basic(KEY), Host="example.org").status == 200


def test_openais_client_says_the_key_is_wrong(guarded: Served):
    with OpenAI(base_url=guarded.url, api_key="wrong", max_retries=0) as client, pytest.raises(AuthenticationError):
        client.models.list()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "unknown_host"),
        ({"Host": "127.0.0.1.evil.example:80"}, "unknown_host"),
        ({"Host": "[::1"}, "unknown_host"),
        ({"Origin": "http://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, "foreign_origin"),
    ],
)
def test_pages_from_elsewhere_get_nothing(served: Served, headers: dict[str, str], code: str):
    refused = ask(served.port, "/v1/models", **headers)
    assert (refused.status, refused.body["error"]["code"]) == (403, code)
    assert not [name for name in refused.headers if name.startswith("access-control")]


def test_our_own_page_is_let_in(served: Served):
    for host in ("localhost:9000", "127.0.0.1", "[::1]:8000", "demo.localhost"):
        assert ask(served.port, "/v1/models", Host=host, Origin=f"http://{host}").status == 200


def test_nobody_is_let_in_across_origins(served: Served, tmp_path: Path):
    asked = ask(served.port, "/v1/completions", method="OPTIONS", Origin="http://evil.example")
    assert asked.status == 403
