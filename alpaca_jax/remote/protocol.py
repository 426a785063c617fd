"""OpenAI's protocol: what is asked, as parameters of a call, and what comes back, as an answer or a reason."""

import dataclasses
import email.utils
import json
import math
import time
from collections.abc import Sequence
from typing import Any

from alpaca_jax.remote.log import Answer, Choice, now
from alpaca_jax.support.errors import shorten
from alpaca_jax.support.hashing import sha256_text

# Bytes of text to a token, where tokens must be estimated; no token has less than one byte.
_BYTES_PER_TOKEN = 4
_TOKENS_AROUND_A_PROMPT = 64

_AGAIN = {408, 409, 425, 429}  # and what is 500 or more
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit")

# What a server may refuse, the words of the refusal, and what is said, once, about going on without it.
_CONCESSIONS = (
    ("response_format", ("response_format", "json_schema"), "asking for text instead of JSON"),
    ("max_tokens", ("max_completion_tokens",), "sending max_completion_tokens instead"),
    ("stop", ("'stop'", '"stop"', "`stop`"), "going on without stop texts"),
    ("temperature", ("temperature", "top_p"), "leaving the sampling to the server"),
)


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
      key: its name in the log, the same in each run.
      model: the server's name of the model.
      prompts: the texts; one where the interface is a chat.
      structured: instead of `prompts` where the server takes a JSON schema: a text, and the schema.
      stop: texts before which an answer ends.
      max_tokens: of each answer.
      temperature, top_p: of the sampling.
      chat: whether the model is spoken to by the interface for chats.
    """

    key: str
    model: str
    prompts: tuple[str, ...]
    structured: tuple[str, dict[str, Any]] | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    chat: bool = True

    def fingerprint(self) -> str:
        """A hash of what is asked."""
        return sha256_text(json.dumps(dataclasses.astuple(self)[1:]))[:16]

    def tokens(self) -> int:
        """About how many tokens the prompts and the longest answers have, as servers count them against a limit."""
        return _estimate(self.prompts) + self.max_tokens * len(self.prompts)

    def most_tokens(self) -> tuple[int, int]:
        """The most tokens that the prompts, in either form, and the answers can have."""
        texts = [*self.prompts]
        if self.structured:
            texts.append(self.structured[0] + json.dumps(self.structured[1]))
        prompts = sum(len(text.encode()) + _TOKENS_AROUND_A_PROMPT for text in texts)
        return prompts, self.max_tokens * len(self.prompts)


@dataclasses.dataclass(frozen=True)
class Call:
    """A request as it is sent.

    Attributes:
      ask: what it asks.
      form: `json` where the server is told a schema, `text` otherwise.
      prompts: the texts.
      parameters: of the call.
    """

    ask: Ask
    form: str
    prompts: tuple[str, ...]
    parameters: dict[str, Any]


def call_of(ask: Ask, conceded: set[str]) -> Call:
    """The call without the parameters that the server has refused."""
    structured = ask.structured if ask.chat and "response_format" not in conceded else None
    prompts = (structured[0],) if structured else ask.prompts
    parameters: dict[str, Any] = {"model": ask.model}
    parameters["max_completion_tokens" if "max_tokens" in conceded else "max_tokens"] = ask.max_tokens
    if "temperature" not in conceded:
        parameters |= {"temperature": ask.temperature, "top_p": ask.top_p}
    if ask.stop and not structured and "stop" not in conceded:
        parameters["stop"] = list(ask.stop)
    if structured:
        schema = {"name": "answer", "strict": True, "schema": structured[1]}
        parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
    if ask.chat:
        parameters["messages"] = [{"role": "user", "content": prompts[0]}]
    else:
        parameters["prompt"] = list(prompts)
    return Call(ask, "json" if structured else "text", prompts, parameters)


def concession(call: Call, status: int, text: str) -> tuple[str, str] | None:
    """The parameter of a call that a server refuses and that can be done without, and what to say about it."""
    if status in (400, 422):
        for name, words, said in _CONCESSIONS:
            if name in call.parameters and any(word in text for word in words):
                return name, said
    return None


def read_answer(call: Call, body: str, request_id: str | None) -> Answer:
    """The answer in a body.

    Raises:
      ValueError: it is not what the protocol says.
    """
    ask = call.ask
    try:
        # Half of a surrogate pair, which no file holds, becomes "?": the answer is what the log will say that it was.
        value = json.loads(json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace"))
        choices = sorted(value["choices"], key=lambda choice: choice.get("index", 0))
        texts = [choice["message"]["content"] if ask.chat else choice["text"] for choice in choices]
        # A chat model that refuses answers with null.
        reasons = [choice.get("finish_reason") for choice in choices]
        read = tuple(Choice(text or "", reason) for text, reason in zip(texts, reasons, strict=True))
        usage = value.get("usage") or {}
        counts: list[Any] = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        name = value.get("id")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if len(read) != len(call.prompts) or not all(isinstance(text, str) for text, _ in read):
        raise ValueError(f"{len(read)} answers to {len(call.prompts)} prompts")
    if not all(reason is None or isinstance(reason, str) for reason in reasons):
        raise ValueError(f"a `finish_reason` that is no text: {shorten(str(reasons))}")
    measured = all(isinstance(count, int) and count >= 0 for count in counts)
    if not measured:
        counts = [_estimate(call.prompts), _estimate([choice.text for choice in read])]
    return Answer(
        key=ask.key,
        asked=ask.fingerprint(),
        form=call.form,
        choices=read,
        model=ask.model,
        request_id=str(name or request_id or ""),
        prompt_tokens=counts[0],
        answer_tokens=counts[1],
        measured=measured,
        time=now(),
    )


def _estimate(texts: Sequence[str]) -> int:
    return sum(math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN) for text in texts)


def reason_of(status: int, body: Any, text: str) -> str:
    """Why a server refuses, in its own words, with the status and the code it gives."""
    fields = body if isinstance(body, dict) else {}
    words, code = str(fields.get("message") or text.strip() or "no words"), fields.get("code") or fields.get("type")
    return f"{status}: {words} ({code})" if isinstance(code, str) and code not in words else f"{status}: {words}"


def may_try_again(status: int, reason: str) -> bool:
    """Whether the same request may be answered later."""
    return (status in _AGAIN or status >= 500) and not any(word in reason for word in _NO_CREDIT)


def remedy_for(status: int) -> str:
    """What to do about a refusal."""
    known = {
        401: "set OPENAI_API_KEY to a valid key",
        403: "check what the key may do and where it may be used",
        404: "check --model and --base_url",
        429: "see to the account's credit",
    }
    return f"{known.get(status, 'change what it names')}, then run the same command to go on"


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait, by a number or a date; None where it does not."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
