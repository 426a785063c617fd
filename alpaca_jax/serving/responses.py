"""The objects that OpenAI's protocol answers with, whole or bit by bit."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from alpaca_jax.generation.text_stream import TokenChoice
from alpaca_jax.serving.answers import Delta

_IMPOSSIBLE = -9999.0


class Usage:
    """Tokens read and made."""

    def __init__(self, prompt_tokens: int):
        """None made yet."""
        self._prompt, self._answer = prompt_tokens, 0

    def count(self, delta: Delta) -> None:
        """Adds the tokens of a delta."""
        self._answer += len(delta.tokens)

    def to_json(self) -> dict[str, int]:
        """As the protocol has it."""
        total = self._prompt + self._answer
        return {"prompt_tokens": self._prompt, "completion_tokens": self._answer, "total_tokens": total}


class CompletionForm:
    """Answers of `/v1/completions`.

    Args:
      model: its name.
      echoes: for each answer the prompt that its text begins with; empty where it is not asked for.
      logprobs: whether log-probabilities are asked for.
    """

    path = "completions"

    def __init__(self, model: str, echoes: Sequence[str], logprobs: bool):
        self._model, self._echoes, self._logprobs = model, list(echoes), logprobs
        self._id, self._created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self._begun = set[int]()
        self._offsets = dict[int, int]()

    def envelope(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        """An answer, or an event of a stream, with these choices."""
        value = {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model}
        return value | {"choices": choices} | ({"usage": usage} if usage else {})

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with, before there is an answer."""
        return []

    def event(self, delta: Delta) -> dict[str, Any]:
        """A delta as the choice of an event."""
        text, tokens = delta.text, delta.tokens
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            text, tokens = self._echoes[delta.index] + text, delta.prompt + tokens
        logprobs = self._listed(delta.index, tokens) if self._logprobs else None
        return {"index": delta.index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def whole(self, events: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """The choices of an answer, from all events."""
        choices: list[dict[str, Any]] = [
            {"index": index, "text": "", "logprobs": None, "finish_reason": None} for index in range(count)
        ]
        for event in events:
            choice = choices[event["index"]]
            choice["text"] += event["text"]
            choice["finish_reason"] = event["finish_reason"]
            if event["logprobs"] and choice["logprobs"]:
                for name, values in event["logprobs"].items():
                    choice["logprobs"][name] += values
            elif event["logprobs"]:
                choice["logprobs"] = event["logprobs"]
        return choices

    def _listed(self, index: int, tokens: Sequence[TokenChoice]) -> dict[str, Any]:
        start = self._offsets.get(index, 0)
        offsets = list[int]()
        for token in tokens:
            offsets.append(start)
            start += len(token.text)
        self._offsets[index] = start
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for token in tokens],
            "top_logprobs": [_best(token) for token in tokens],
            "text_offset": offsets,
        }


def _best(token: TokenChoice) -> dict[str, float] | None:
    """The likeliest tokens and the chosen one, by text; of equal texts the likelier."""
    if token.logprob is None:
        return None
    best = dict[str, float]()
    for _, text, logprob in token.best:
        best.setdefault(text, _finite(logprob))
    best.setdefault(token.text, _finite(token.logprob))
    return best


class ChatForm:
    """Answers of `/v1/chat/completions`.

    Args:
      model: its name.
      count: the number of answers.
      logprobs: whether log-probabilities are asked for.
    """

    path = "chat/completions"

    def __init__(self, model: str, count: int, logprobs: bool):
        self._model, self._count, self._logprobs = model, count, logprobs
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

    def envelope(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        """As `CompletionForm.envelope`."""
        kind = "chat.completion" if choices and "message" in choices[0] else "chat.completion.chunk"
        value = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return value | {"choices": choices} | ({"usage": usage} if usage else {})

    def opening(self) -> list[dict[str, Any]]:
        """As `CompletionForm.opening`: who speaks."""
        start = {"role": "assistant", "content": ""}
        return [
            {"index": index, "delta": start, "logprobs": None, "finish_reason": None} for index in range(self._count)
        ]

    def event(self, delta: Delta) -> dict[str, Any]:
        """As `CompletionForm.event`."""
        logprobs = {"content": list(map(_content, delta.tokens)), "refusal": None} if self._logprobs else None
        content = {"content": delta.text} if delta.text else {}
        return {"index": delta.index, "delta": content, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def whole(self, events: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
        """As `CompletionForm.whole`."""
        texts, reasons, logprobs = [""] * count, [None] * count, [list[Any]() for _ in range(count)]
        for event in events:
            index = event["index"]
            texts[index] += event["delta"].get("content", "")
            reasons[index] = event["finish_reason"]
            logprobs[index] += event["logprobs"]["content"] if self._logprobs else []
        return [
            {
                "index": index,
                "message": {"role": "assistant", "content": texts[index], "refusal": None},
                "logprobs": {"content": logprobs[index], "refusal": None} if self._logprobs else None,
                "finish_reason": reasons[index],
            }
            for index in range(count)
        ]


def _content(token: TokenChoice) -> dict[str, Any]:
    best = [_one(text, logprob) for _, text, logprob in token.best]
    return _one(token.text, token.logprob) | {"top_logprobs": best}


def _one(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob or 0.0), "bytes": list(text.encode())}


def _finite(logprob: float) -> float:
    # JSON has no infinity; OpenAI's server says this for what is all but impossible.
    return max(logprob, _IMPOSSIBLE)
