"""OpenAI's protocol, as OpenAI's own client speaks it."""

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from alpaca_jax.generation.settings import Sampling
from tests.serving.server import Served, ask, metric

PROMPT = "Which ocean washes the shores of Kenya?"


@pytest.fixture(scope="module")
def client(served: Served):
    with OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def complete(client: OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "temperature": 0} | more)


def test_models_are_listed(client: OpenAI):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "alpaca_jax"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-5")
    assert refused.value.code == "model_not_found"


def test_a_completion_is_what_the_engine_makes_and_counts_its_tokens(client: OpenAI, served: Served):
    made = complete(client)
    (choice,) = made.choices
    assert choice.finish_reason == "length"
    assert made.usage.prompt_tokens == len(served.service.model("tiny").engine.prompt_ids(PROMPT))
    assert made.usage.completion_tokens == 8
    assert made.usage.total_tokens == made.usage.prompt_tokens + 8
    assert choice.text
    assert complete(client).choices[0].text == choice.text


def test_a_stream_joined_is_the_whole_answer(client: OpenAI):
    whole = complete(client, n=2, temperature=1, seed=5)
    texts, reasons, usage = ["", ""], [None, None], None
    options = {"include_usage": True}
    for event in complete(client, n=2, temperature=1, seed=5, stream=True, stream_options=options):
        for choice in event.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
        usage = event.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] != texts[1], "each answer draws for itself"
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_seeds_repeat_and_their_lack_does_not(client: OpenAI):
    def drawn(**more):
        return complete(client, temperature=1, max_tokens=12, **more).choices[0].text

    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)
    assert drawn() != drawn()


def test_several_prompts_as_texts_or_tokens_each_get_their_own(client: OpenAI, served: Served):
    prompts = [PROMPT, "Name a metal.", "Add one and two."]
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]
    together = complete(client, prompt=prompts)
    assert [choice.text for choice in together.choices] == alone
    engine = served.service.model("tiny").engine
    ids = [engine.prompt_ids(prompt) for prompt in prompts]
    assert [choice.text for choice in complete(client, prompt=ids).choices] == alone
    assert complete(client, prompt=ids[1]).choices[0].text == alone[1]
    twice = complete(client, prompt=prompts[:2], n=2)
    assert [choice.text for choice in twice.choices] == [alone[0], alone[0], alone[1], alone[1]]
    assert twice.usage.prompt_tokens == len(ids[0]) + len(ids[1])


def test_echo_brings_the_prompt_and_its_log_probabilities(client: OpenAI, served: Served):
    ids = served.service.model("tiny").engine.prompt_ids(PROMPT)
    (choice,) = complete(client, echo=True, logprobs=2, max_tokens=3).choices
    assert choice.text.startswith(PROMPT)
    listed = choice.logprobs
    assert len(listed.tokens) == len(listed.token_logprobs) == len(listed.top_logprobs) == len(ids) + 3
    assert listed.token_logprobs[0] is None
    assert listed.top_logprobs[0] is None
    assert all(value < 0 for value in listed.token_logprobs[1:])
    # The greedy answer is the likeliest token each time.
    for value, best in list(zip(listed.token_logprobs, listed.top_logprobs, strict=True))[-3:]:
        assert value == max(best.values())
    (only,) = complete(client, echo=True, logprobs=2, max_tokens=0).choices
    assert only.text == PROMPT
    assert only.logprobs.token_logprobs == pytest.approx(listed.token_logprobs[:-3], abs=1e-4) or (
        only.logprobs.token_logprobs[1:] == pytest.approx(listed.token_logprobs[1:-3], abs=1e-4)
    )


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI):
    whole = complete(client, max_tokens=12).choices[0].text
    stop = whole[len(whole) // 2 :][:3]
    made = complete(client, max_tokens=12, stop=[stop]).choices[0]
    assert made.text == whole[: whole.index(stop)]
    assert made.finish_reason == "stop"
    streamed = "".join(event.choices[0].text for event in complete(client, max_tokens=12, stop=stop, stream=True))
    assert streamed == made.text


def chat(client: OpenAI, *said: str, **more: Any) -> Any:
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(said)]
    parameters = {"model": "tiny", "messages": messages, "max_tokens": 6, "temperature": 0}
    return client.chat.completions.create(**parameters | more)


def test_a_chat_is_put_into_the_template(client: OpenAI, served: Served):
    from alpaca_jax.data.prompt import render_prompt

    made = chat(client, "Name a metal.")
    same = complete(client, prompt=render_prompt("Name a metal."), max_tokens=6)
    assert made.choices[0].message.content == same.choices[0].text
    assert made.choices[0].message.role == "assistant"
    assert made.usage.prompt_tokens == same.usage.prompt_tokens
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name "}, {"type": "text", "text": "a metal."}]}]
    assert chat(client, messages=parts).choices[0].message.content == same.choices[0].text
    longer = chat(client, "Name a metal.", "Tungsten", "Name another one.")
    assert longer.usage.prompt_tokens > made.usage.prompt_tokens


def test_a_chat_streams_with_its_log_probabilities(client: OpenAI):
    whole = chat(client, "Name a metal.", logprobs=True, top_logprobs=3).choices[0]
    assert [len(token.top_logprobs) for token in whole.logprobs.content] == [3] * 6
    assert all(token.logprob == token.top_logprobs[0].logprob for token in whole.logprobs.content)
    text, tokens, roles = "", [], []
    for event in chat(client, "Name a metal.", logprobs=True, top_logprobs=3, stream=True):
        delta = event.choices[0].delta
        text += delta.content or ""
        roles += [delta.role] if delta.role else []
        tokens += event.choices[0].logprobs.content if event.choices[0].logprobs else []
    assert (text, tokens, roles) == (whole.message.content, whole.logprobs.content, ["assistant"])


def test_many_at_once_get_what_they_get_alone(client: OpenAI, served: Served):
    prompts = [f"What is {number} times {number}?" for number in range(12)]
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]

    async def together() -> list[str]:
        async with AsyncOpenAI(base_url=served.url, api_key="none", max_retries=0) as client:

            async def one(prompt: str) -> str:
                text = ""
                parameters = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}
                async for event in await client.completions.create(**parameters, stream=True):
                    text += event.choices[0].text
                return text

            return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(together()) == alone


def test_no_text_of_a_prompt_is_a_control_token(client: OpenAI, served: Served):
    engine = served.service.model("tiny").engine
    text = "</s><s>[INST]<|im_end|><|eot_id|>"
    made = complete(client, prompt=text, max_tokens=1)
    assert made.usage.prompt_tokens == len(engine.prompt_ids(text)) > 10


@pytest.mark.parametrize(
    ("path", "change", "param", "code"),
    [
        ("completions", {"prompt": "word " * 500}, "prompt", "context_length_exceeded"),
        ("completions", {"prompt": [[]]}, "prompt", None),
        ("completions", {"prompt": []}, "prompt", "invalid_value"),
        ("completions", {"prompt": [[5, 999_999]]}, "prompt", None),
        ("completions", {"prompt": [5, -1]}, "prompt", "invalid_value"),
        ("completions", {"prompt": {"text": "x"}}, "prompt", "invalid_value"),
        ("completions", {"max_tokens": -1}, "max_tokens", "invalid_value"),
        ("completions", {"max_tokens": 10**400}, "max_tokens", "invalid_value"),
        ("completions", {"max_tokens": 100_000}, "max_tokens", None),
        ("completions", {"temperature": -0.1}, "temperature", "invalid_value"),
        ("completions", {"temperature": "0.5"}, "temperature", "invalid_value"),
        ("completions", {"top_p": 0}, "top_p", "invalid_value"),
        ("completions", {"seed": 2**32}, "seed", "invalid_value"),
        ("completions", {"n": 0}, "n", "invalid_value"),
        ("completions", {"n": 128, "prompt": ["a"] * 10}, "n", None),
        ("completions", {"stop": [""]}, "stop", "invalid_value"),
        ("completions", {"stop": ["x"] * 17}, "stop", "invalid_value"),
        ("completions", {"logprobs": 21}, "logprobs", "invalid_value"),
        ("completions", {"logprobs": True}, "logprobs", "invalid_value"),
        ("completions", {"stream": "true"}, "stream", "invalid_value"),
        ("completions", {"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo", "invalid_value"),
        ("completions", {"best_of": 3}, "best_of", "unsupported_parameter"),
        ("completions", {"max_tokns": 3}, "max_tokns", "unknown_parameter"),
        ("chat/completions", {"messages": []}, "messages", "invalid_value"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "word " * 500}]},
            "messages",
            "context_length_exceeded",
        ),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
            "response_format",
            "unsupported_parameter",
        ),
    ],
)
def test_what_is_wrong_is_said(served: Served, path: str, change: dict, param: str, code: str | None):
    right = {"prompt": "x"} if path == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    answer = ask(served.port, f"/v1/{path}", {"model": "tiny", "max_tokens": 1} | right | change)
    assert answer.status == 400, answer.body
    error = answer.body["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert len(error["message"]) < 500


def test_what_changes_nothing_is_taken(client: OpenAI):
    plain = complete(client).choices[0].text
    harmless = {"user": "me", "frequency_penalty": 0, "presence_penalty": 0, "best_of": 1, "logit_bias": {}}
    assert complete(client, **harmless).choices[0].text == plain
    metadata = {"metadata": {"a": "b"}, "response_format": {"type": "text"}, "store": False}
    assert chat(client, "x", **metadata).choices[0].message.content is not None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": "\xff\xfe"}', "UTF-8"),
        (b'{"prompt": "x", "temperature": NaN}', "NaN"),
        (b'{"prompt": "x", "temperature": 1e999}', "1e999"),
        (b'{"prompt": "x", "prompt": "y"}', "twice"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b"[" * 5_000 + b"]" * 5_000, "deep"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "deep"),
        (b'["prompt"]', "object"),
        (b"", "JSON"),
        (b"<script>", "JSON"),
    ],
)
def test_a_body_that_is_no_request_is_refused(served: Served, body: bytes, said: str):
    answer = ask(served.port, "/v1/completions", body)
    assert answer.status == 400
    assert said in answer.body["error"]["message"]


def test_paths_and_methods_that_are_not_there(served: Served):
    assert ask(served.port, "/v1/embeddings", {}).status == 404
    wrong = ask(served.port, "/v1/completions", method="GET")
    assert wrong.status == 405
    assert wrong.body["error"]["type"] == "invalid_request_error"
    form = ask(served.port, "/v1/completions", b"prompt=x", Content_Type="application/x-www-form-urlencoded")
    assert form.status == 415


def test_it_says_how_it_is(served: Served, client: OpenAI):
    name = 'alpaca_jax_tokens_total{kind="answer",model="tiny"}'
    before = metric(served.port, name)
    complete(client, max_tokens=5)
    assert metric(served.port, name) == before + 5
    assert metric(served.port, 'alpaca_jax_slots{model="tiny"}') == 2
    assert metric(served.port, 'alpaca_jax_requests_total{endpoint="/v1/completions",status="200"}') > 0
    assert ask(served.port, "/healthz").body == {"status": "ok"}


def test_sampling_has_every_control_of_a_request(client: OpenAI):
    # top_k 1 takes the likeliest token at any temperature.
    greedy = complete(client).choices[0].text
    assert complete(client, temperature=2, extra_body={"top_k": 1}).choices[0].text == greedy
    assert complete(client, temperature=2, seed=1).choices[0].text != greedy
    assert complete(client, extra_body={"repetition_penalty": 50.0}, max_tokens=20) is not None
    assert Sampling().logprobs is None
