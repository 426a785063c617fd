"""The routes of OpenAI's protocol, and those that a watcher of the server asks."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeAlias, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from alpaca_jax.data.instructions import Conversation, Message, Role
from alpaca_jax.generation.settings import Sampling
from alpaca_jax.serving.answers import Answers
from alpaca_jax.serving.refusal import Refusal, invalid, refuse_as_invalid
from alpaca_jax.serving.responses import ChatForm, CompletionForm, Usage
from alpaca_jax.serving.schema import ChatRequest, CompletionRequest, read_request
from alpaca_jax.serving.service import Service
from alpaca_jax.support.errors import UserError

Form: TypeAlias = CompletionForm | ChatForm
_T = TypeVar("_T")

# OpenAI's, where a request does not say.
_COMPLETION_TOKENS = 16
# A reader of a stream gets so much longer than the answer may take.
_SECONDS_FOR_READERS = 30.0


def make_router(service: Service) -> APIRouter:
    """The routes, answered by the service."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(service, name) for name in service.models]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(service, service.model(name).name)

    @router.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        _check_kind(request)
        ask = read_request(await request.body(), CompletionRequest)
        return await _respond(request, service, ask)

    @router.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        _check_kind(request)
        ask = read_request(await request.body(), ChatRequest)
        return await _respond(request, service, ask)

    @router.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"status": "ok" if service.healthy else "failed"}, 200 if service.healthy else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    async def elsewhere(request: Request, path: str) -> None:
        known = path in (CompletionForm.path, ChatForm.path, "models")
        words = f"{request.method} /v1/{path[:100]}: this server does not have it."
        raise Refusal(405 if known else 404, "invalid_request_error", words, "unknown_url")

    return router


def _model(service: Service, name: str) -> dict[str, Any]:
    created = service.models[name].created
    return {"id": name, "object": "model", "created": created, "owned_by": "alpaca_jax"}


def _check_kind(request: Request) -> None:
    # A form, which a page from elsewhere could send, is of another kind.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        words = f"Content-Type: expected application/json; found {kind[:60] or 'none'}."
        raise Refusal(415, "invalid_request_error", words, "unsupported_media_type")


async def _respond(request: Request, service: Service, ask: CompletionRequest | ChatRequest) -> Response:
    opening = _open_chat(service, ask) if isinstance(ask, ChatRequest) else _open_completion(service, ask)
    answers, form = await opening
    if ask.stream:
        return EventStream(answers, form, ask.with_usage, service.limits.timeout + _SECONDS_FOR_READERS)
    with contextlib.closing(answers):
        return await _unless_gone(request.receive, _whole(answers, form))


async def _whole(answers: Answers, form: Form) -> Response:
    usage, events = Usage(answers.job.prompt_tokens), []
    async for delta in answers:
        usage.count(delta)
        events.append(form.event(delta))
    return JSONResponse(form.envelope(form.whole(events, answers.job.choices), usage.to_json()))


async def _open_completion(service: Service, ask: CompletionRequest) -> tuple[Answers, Form]:
    most = _COMPLETION_TOKENS if ask.max_tokens is None else ask.max_tokens
    if most == 0 and not ask.echo:
        raise invalid("max_tokens: expected at least 1, or `echo`; found 0.", "max_tokens", "invalid_value")
    if not ask.prompts:
        raise invalid("prompt: expected at least one; found none.", "prompt", "invalid_value")
    prompt_logprobs = bool(ask.echo) and (ask.logprobs is not None or most == 0)
    sampling = _sampling(ask, most, ask.logprobs, prompt_logprobs)
    n = ask.n or 1
    answers = await service.open(ask.model, ask.prompts, sampling, n)
    echoes = [""] * answers.job.choices
    if ask.echo:
        decode = answers.job.engine.tokenizer.decode
        texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in ask.prompts]
        echoes = [text for text in texts for _ in range(n)]
    return answers, CompletionForm(answers.job.model, echoes, ask.logprobs is not None)


async def _open_chat(service: Service, ask: ChatRequest) -> tuple[Answers, Form]:
    if ask.max_tokens is not None and ask.max_completion_tokens is not None:
        raise invalid("max_tokens: give it or max_completion_tokens, not both.", "max_tokens", "invalid_value")
    if ask.top_logprobs is not None and not ask.logprobs:
        raise invalid("top_logprobs: needs `logprobs` to be true.", "top_logprobs", "invalid_value")
    most = ask.max_completion_tokens if ask.max_tokens is None else ask.max_tokens
    if most == 0:
        raise invalid("max_tokens: expected at least 1; found 0.", "max_tokens", "invalid_value")
    if most is None:
        most = min(service.max_tokens, service.model(ask.model).context)
    sampling = _sampling(ask, most, (ask.top_logprobs or 0) if ask.logprobs else None)
    answers = await service.open(ask.model, [_conversation(ask)], sampling, ask.n or 1)
    return answers, ChatForm(answers.job.model, answers.job.choices, bool(ask.logprobs))


def _conversation(ask: ChatRequest) -> Conversation:
    """The messages as one chat.

    Raises:
      Refusal: they are not, perhaps after a system message, user and assistant in turn with the user last.
    """
    messages = list[Message]()
    for message in ask.messages:
        role: Role = "system" if message.role == "developer" else message.role
        if role == "system" and messages and messages[0].role == "system":
            messages[0] = Message("system", f"{messages[0].content}\n\n{message.text}")
        else:
            messages.append(Message(role, message.text))
    if messages[-1].role != "user":
        raise invalid("messages: the last one must be a user's.", "messages", "invalid_value")
    if not messages[-1].content:
        raise invalid("messages: the last one is empty. Give it a text.", "messages", "invalid_value")
    try:
        return Conversation(tuple(messages))
    except ValueError as error:
        words = "perhaps a system message, then user and assistant in turn, the user first"
        raise invalid(f"messages: expected {words}; found {error}.", "messages", "invalid_value") from None


def _sampling(
    ask: CompletionRequest | ChatRequest, most: int, logprobs: int | None, prompt_logprobs: bool = False
) -> Sampling:
    """How tokens are chosen; what a request does not say is as with OpenAI: temperature 1, the whole nucleus."""
    try:
        return Sampling(
            temperature=1.0 if ask.temperature is None else ask.temperature,
            top_p=1.0 if ask.top_p is None else ask.top_p,
            top_k=ask.top_k or 0,
            repetition_penalty=1.0 if ask.repetition_penalty is None else ask.repetition_penalty,
            max_new_tokens=most,
            seed=secrets.randbits(32) if ask.seed is None else ask.seed,
            stop=ask.stops,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
    except UserError as error:
        refuse_as_invalid(error, {"max_new_tokens": "max_tokens"})


class EventStream(Response):
    """Answers as server-sent events; closes them at the end, however it comes."""

    def __init__(self, answers: Answers, form: Form, with_usage: bool, seconds: float):
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._answers, self._form, self._with_usage, self._seconds = answers, form, with_usage, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        with contextlib.closing(self._answers):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with asyncio.timeout(self._seconds):
                    await _unless_gone(receive, self._pour(send))
            except TimeoutError:
                raise ClientDisconnect from None  # it does not read what it is sent

    async def _pour(self, send: Send) -> None:
        async for event in self._events():
            data = event if isinstance(event, str) else json.dumps(event)
            body = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncIterator[dict[str, Any] | str]:
        usage, form = Usage(self._answers.job.prompt_tokens), self._form
        if opening := form.opening():
            yield form.envelope(opening, None)
        try:
            async for delta in self._answers:
                usage.count(delta)
                yield form.envelope([form.event(delta)], None)
        except Refusal as refusal:
            yield refusal.body()
            return
        if self._with_usage:
            yield form.envelope([], usage.to_json())
        yield "[DONE]"


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of the work, which ends at once where the client leaves.

    Raises:
      ClientDisconnect: it has left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
