"""From a record to the tokens a model is trained on, and the mask that says on which of them.

n: tokens of one example.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from alpaca_jax.data.instructions import Instruction, Record
from alpaca_jax.data.prompt import BOS, EOS, Segment, Template
from alpaca_jax.data.tokenizer import Tokenizer, Where
from alpaca_jax.support.errors import UserError

Tokenization: TypeAlias = Literal["exact", "stanford"]


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One example: prompts, answers and their ends as ids, joined; trained on the answers and their ends.

    "Who painted Guernica?" and its answer "Pablo Picasso" in Alpaca's template, with a tokenizer that numbers whole
    words from 10 (the middle of the prompt is left out):

        piece      <s>  Below  is  an  …  #  Response  :  Pablo  Picasso  </s>
        tokens       1     10  11  12  … 26        33 28     34       35     2
        loss_mask    .      .   .   .  …  .         .  .      x        x     x

    A chat of two turns, "Hi" "Hello" and "Bye" "See you", in ChatML (`[` is <|im_start|>, `]` is <|im_end|>, ⏎ a line's
    end); each answer is trained with the token that ends it:

        piece      <s> [ user ⏎ Hi ] ⏎ [ assistant ⏎ Hello ] ⏎ [ user ⏎ Bye ] ⏎ [ assistant ⏎ See you ]
        loss_mask    . .    . .  . . . .         . .     x x . .    . .   . . . .         . .   x   x x

    Attributes:
      tokens: int32 [n].
      loss_mask: bool [n], True where the token is to be predicted.
      truncated: whether the end, with the token that ends an answer, was cut off.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    truncated: bool = False


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record that gives no example, and why.

    Attributes:
      reason: `empty_output`, an answer is blank (of a chat: any of them); `prompt_too_long`, the row has no room for a
        single trained token.
    """

    reason: Literal["empty_output", "prompt_too_long"]


def make_example(
    record: Record, tokenizer: Tokenizer, template: Template, seq_len: int, tokenization: Tokenization = "exact"
) -> Example | Dropped:
    """The example of one record; see `make_examples`."""
    return make_examples([record], tokenizer, template, seq_len, tokenization)[0]


def make_examples(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    template: Template,
    seq_len: int,
    tokenization: Tokenization = "exact",
) -> list[Example | Dropped]:
    """The examples of records, all texts tokenised in a few calls of the tokenizer's library.

    An example of n tokens gives n − 1 pairs of input and target, so `seq_len + 1` tokens fit a row. A longer one loses
    its end (and then does not teach the last answer's end), and with it whatever follows its last trained token.

    Args:
      records: instructions and chats.
      tokenizer: makes the ids.
      template: makes the texts.
      seq_len: the length of a row.
      tokenization: "exact": prompt and answer are tokenised apart and the ids joined, so that training sees what
        generation will produce. "stanford": as the original release did, to reproduce it: the prompt and the prompt
        with its answer are tokenised, and of the second as many tokens are masked as the first has. Where the prompt's
        last character merges with the answer's first (`:` with ` "`, `-`, `[`, `#` or `{`, in 3.2% of Alpaca's records
        with LLaMA's vocabulary), a token that generation must produce is then not trained. Tokens beyond `seq_len`
        are cut, one fewer than a row would hold. Between special tokens each prompt is taken with the answer after it.

    Raises:
      UserError: the tokenizer has not got the template's special tokens.
    """
    ids = special_ids(template, tokenizer)
    batch = _Batch()
    plans: list[_Plan | Dropped] = []
    for record in records:
        if any(not answer.strip() for answer in _answers(record)):
            plans.append(Dropped("empty_output"))
        else:
            plans.append(_plan(template.segments(record), ids, batch, joined=tokenization == "stanford"))
    batch.encode(tokenizer)
    room = seq_len if tokenization == "stanford" else seq_len + 1
    return [plan if isinstance(plan, Dropped) else _example(plan, batch, room) for plan in plans]


def encode_prompt(record: Record, tokenizer: Tokenizer, template: Template) -> list[int]:
    """The ids that a model is asked to continue: an instruction without its output, or a chat that ends with the user.

    Raises:
      UserError: the tokenizer has not got the template's special tokens.
    """
    batch = _Batch()
    plan = _plan(template.prompt(record), special_ids(template, tokenizer), batch, joined=False)
    batch.encode(tokenizer)
    return np.concatenate([batch.ids(piece) for piece in plan]).tolist()


def special_ids(template: Template, tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the special tokens in a template's patterns.

    Raises:
      UserError: the tokenizer has not got one of them, or has one of a name that this template writes as text.
    """
    ids: dict[str, int | None] = {name: tokenizer.special_ids.get(name) for name in template.special_tokens}
    ids[EOS] = tokenizer.eos_id
    if template.first.startswith(BOS):
        ids[BOS] = tokenizer.bos_id
    for name, id in ids.items():
        if id is None:
            said = "a token that begins a text (bos)" if name == BOS else f"{name} as a special token"
            raise _unsuited(template, said, "none")
    for name in tokenizer.special_ids:
        if name and any(name in text for text in template.literals()):
            raise _unsuited(template, f"{name} to be text", "a special token of that name")
    return {name: id for name, id in ids.items() if id is not None}


def end_ids(template: Template, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer: the template's and the tokenizer's own.

    Raises:
      UserError: as `special_ids`.
    """
    return frozenset({special_ids(template, tokenizer)[template.end], tokenizer.eos_id})


def _unsuited(template: Template, expected: str, found: str) -> UserError:
    return UserError(
        f"tokenizer, for the template {template.name!r}",
        expected=expected,
        found=found,
        remedy="choose the template that the tokenizer's model was made with, or alpaca",
    )


class _Piece(NamedTuple):
    """Some tokens of an example: one special token, or a text of the batch by its number.

    Attributes:
      id: of the special token.
      where: in what place the text stands.
      text: its number among the texts of that place.
      trained: whether the tokens are trained.
      masked: the number of the text whose length in tokens is not trained after all.
    """

    trained: bool
    id: int | None = None
    where: Where = "inside"
    text: int = -1
    masked: int | None = None


_Plan: TypeAlias = list[_Piece]


class _Batch:
    """Texts to be tokenised, by the place in which they stand."""

    def __init__(self) -> None:
        self._texts: dict[Where, list[str]] = {"start": [], "after special": [], "inside": []}
        self._ids: dict[Where, list[np.ndarray]] = {}

    def add(self, text: str, where: Where) -> int:
        """Takes a text in; its number."""
        self._texts[where].append(text)
        return len(self._texts[where]) - 1

    def encode(self, tokenizer: Tokenizer) -> None:
        """Tokenises what was taken in."""
        self._ids = {where: tokenizer.encode_batch(texts, where) for where, texts in self._texts.items() if texts}

    def ids(self, piece: _Piece) -> np.ndarray:
        """The tokens of a piece, int32."""
        return np.array([piece.id], np.int32) if piece.id is not None else self._ids[piece.where][piece.text]

    def masked(self, piece: _Piece) -> int:
        """How many of a trained piece's tokens, from its beginning, are not trained."""
        return 0 if piece.masked is None else len(self._ids[piece.where][piece.masked])


def _plan(segments: Iterable[Segment], ids: Mapping[str, int], batch: _Batch, joined: bool) -> _Plan:
    """Puts a record's texts into the batch. `joined`: an answer's text together with the prompt's before it."""
    plan: _Plan = []
    before: Segment | None = None
    for segment in segments:
        if before is None and (not segment.special or segment.text != BOS):
            where: Where = "start"
            if segment.special:
                plan.append(_Piece(trained=False, where=where, text=batch.add("", where)))
        elif before is not None:
            where = "after special" if before.special else "inside"
        if segment.special:
            plan.append(_Piece(segment.trained, id=ids[segment.text]))
        elif joined and segment.trained and before is not None and not before.special:
            prompt = plan.pop()
            whole = batch.add(before.text + segment.text, prompt.where)
            plan.append(_Piece(trained=True, where=prompt.where, text=whole, masked=prompt.text))
        else:
            plan.append(_Piece(segment.trained, where=where, text=batch.add(segment.text, where)))
        before = segment
    return plan


def _example(plan: _Plan, batch: _Batch, room: int) -> Example | Dropped:
    """The tokens of a plan and their mask, cut to the room there is."""
    ids = [batch.ids(piece) for piece in plan]
    tokens_n = np.concatenate(ids)
    loss_mask_n = np.zeros(len(tokens_n), np.bool_)
    end = 0
    for piece, piece_ids in zip(plan, ids, strict=True):
        start, end = end, end + len(piece_ids)
        if piece.trained:
            loss_mask_n[min(start + batch.masked(piece), end) : end] = True
    truncated = len(tokens_n) > room
    if truncated:
        trained = np.flatnonzero(loss_mask_n[:room])
        if not len(trained):
            return Dropped("prompt_too_long")
        length = trained[-1] + 1
        tokens_n, loss_mask_n = tokens_n[:length], loss_mask_n[:length]
    return Example(tokens_n, loss_mask_n, truncated)


def _answers(record: Record) -> list[str]:
    if isinstance(record, Instruction):
        return [record.output]
    return [message.content for message in record.messages if message.role == "assistant"]
