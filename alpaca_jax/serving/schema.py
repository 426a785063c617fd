"""The bodies of requests, as OpenAI's protocol has them, checked field by field."""

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alpaca_jax.serving.refusal import Refusal, invalid
from alpaca_jax.support.errors import shorten
from alpaca_jax.support.files import json_fault, parse_json

# Lists within lists of a body; Python's parser itself gives up far later.
_DEEPEST = 32
_LONGEST_STOP = 1_000

# What OpenAI's server knows and this one does not: the values that change nothing, which clients send by default.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "store": (False,),
}
# What only says something about the request.
_PASSED_OVER = frozenset(
    {
        "user",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    }
)

# Fields of several types, of which the library names but the first.
_EITHER = {
    "prompt": "a text, a list of texts, a list of tokens (numbers from 0), or a list of such lists",
    "stop": f"a text of 1 to {_LONGEST_STOP:,} characters, or a list of at most 16",
}

_Text = Annotated[str, Field(max_length=_LONGEST_STOP, min_length=1)]
_Token = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Request(BaseModel):
    """What both kinds of request have; `top_k` and `repetition_penalty` are this server's own."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    n: int | None = Field(None, ge=1, le=128)
    stop: _Text | Annotated[list[_Text], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=0, lt=2**32)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether the last event of a stream says how many tokens there were."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(_Request):
    """The body of `/v1/completions`."""

    prompt: str | list[str] | list[_Token] | list[list[_Token]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, a text or its tokens."""
        given = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)  # type: ignore[arg-type]


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """What one side says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Request):
    """The body of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


_R = TypeVar("_R", CompletionRequest, ChatRequest)


def read_request(body: bytes, kind: type[_R]) -> _R:
    """The request in a body.

    Raises:
      Refusal: it is not JSON, lacks a field, has an unknown one, or one of another type or out of range (400).
    """
    value = _json(body)
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object; found {shorten(value)}.")
    known = dict[str, Any]()
    for name, content in value.items():
        if name in kind.model_fields:
            known[name] = content
        elif name not in _PASSED_OVER and not _is_without_effect(name, content):
            raise _unknown(name, kind)
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        raise _explained(error) from None


def _json(body: bytes) -> Any:
    try:
        value = parse_json(body.decode("utf-8"))
        # What Python reads, a lone surrogate for one, need not be text that can be sent or tokenised.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
        if _depth(value) > _DEEPEST:
            raise RecursionError
    except UnicodeDecodeError as error:
        raise invalid(f"The body must be UTF-8; byte {error.start} is not.") from None
    except UnicodeEncodeError:
        raise invalid("The body has half of a surrogate pair, which is no character.") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body must be JSON; found {json_fault(error)}.") from None
    return value


def _depth(value: Any) -> int:
    """How deep lists and objects lie within each other, as far as it matters."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        inner = [one for one in level if isinstance(one, (dict, list))]
        level = [each for one in inner for each in (one.values() if isinstance(one, dict) else one)]
        depth += bool(inner)
    return depth


def _is_without_effect(name: str, content: Any) -> bool:
    return name in _WITHOUT_EFFECT and (content is None or content in _WITHOUT_EFFECT[name])


def _unknown(name: str, kind: type[BaseModel]) -> Refusal:
    known = list(kind.model_fields)
    if name in _WITHOUT_EFFECT:
        return invalid(f"{name}: this server does not support it. Leave it out.", name, "unsupported_parameter")
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    remedy = f"Did you mean {nearest[0]!r}?" if nearest else f"Known are {', '.join(known)}."
    return invalid(f"Unknown field {shorten(name, 60)}. {remedy}", name[:60], "unknown_parameter")


def _explained(error: ValidationError) -> Refusal:
    """The first fault, by the name of its field."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] != "missing" and (words := _EITHER.get(str(first["loc"][0]))):
        return invalid(f"{first['loc'][0]}: expected {words}.", str(first["loc"][0]), "invalid_value")
    # What follows a field may be the library's names of the types that it has tried.
    kinds = [str(part) for part in first["loc"][1:]]
    inner = [kind for kind in kinds if kind not in ("str", "int") and not kind.startswith(("constrained-", "list["))]
    place = [str(first["loc"][0]), *inner]
    param = ".".join(place)
    if first["type"] == "missing":
        return invalid(f"{param}: this field is needed.", param, "missing_required_parameter")
    message = f"{param}: {first['msg'][:1].lower()}{first['msg'][1:]}; found {shorten(first['input'])}."
    return invalid(message, param, "invalid_value")
