"""From a record to the tokens a model is trained on, and the mask that says on which of them.

n: tokens of one example; P: pieces of all; T: tokens of all, end to end.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    batch = _Batch(special_ids(template, tokenizer))
    answered = [all(map(str.strip, _answers(record))) for record in records]
    segments = map(template.segments, itertools.compress(records, answered))
    plans = [_plan(some, batch, joined=tokenization == "stanford") for some in segments]
    batch.encode(tokenizer)
    made = iter(_examples(plans, batch, room=seq_len if tokenization == "stanford" else seq_len + 1))
    return [next(made) if whole else Dropped("empty_output") for whole in answered]


def encode_prompt(record: Record, tokenizer: Tokenizer, template: Template) -> list[int]:
    """The ids that a model is asked to continue: an instruction without its output, or a chat that ends with the user.

    Raises:
      UserError: the tokenizer has not got the template's special tokens.
    """
    batch = _Batch(special_ids(template, tokenizer))
    plan = _plan(template.prompt(record), batch, joined=False)
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
      trained: whether the tokens are trained.
      special: the name of the special token.
      where: in what place the text stands.
      text: its number among the texts of that place.
      masked: the number of the text whose length in tokens is not trained after all.
    """

    trained: bool
    special: str | None
    where: Where = "inside"
    text: int = -1
    masked: int | None = None


_Plan: TypeAlias = list[_Piece]


class _Batch:
    """Texts to be tokenised, by the place in which they stand."""

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special = {name: np.array([id], np.int32) for name, id in special_ids.items()}
        self._texts: dict[Where, list[str]] = {"start": [], "after special": [], "inside": []}
        self._ids: dict[Where, list[np.ndarray]] = {}

    def add(self, text: str, where: Where) -> int:
        """Takes a text in; its number."""
        texts = self._texts[where]
        texts.append(text)
        return len(texts) - 1

    def encode(self, tokenizer: Tokenizer) -> None:
        """Tokenises what was taken in."""
        self._ids = {where: tokenizer.encode_batch(texts, where) for where, texts in self._texts.items() if texts}

    def ids(self, piece: _Piece) -> np.ndarray:
        """The tokens of a piece, int32."""
        return self._ids[piece.where][piece.text] if piece.special is None else self._special[piece.special]

    def length(self, where: Where, text: int) -> int:
        """How many tokens a text has."""
        return len(self._ids[where][text])


def _plan(segments: Iterable[Segment], batch: _Batch, joined: bool) -> _Plan:
    """Puts a record's texts into the batch. `joined`: an answer's text together with the prompt's before it."""
    plan: _Plan = []
    before: Segment | None = None
    for segment in segments:
        text, special, trained = segment
        if before is None and (not special or text != BOS):
            where: Where = "start"
            if special:
                plan.append(_Piece(False, None, where, batch.add("", where)))
        elif before is not None:
            where = "after special" if before.special else "inside"
        if special:
            plan.append(_Piece(trained, text))
        elif joined and trained and before is not None and not before.special:
            prompt = plan.pop()
            whole = batch.add(before.text + text, prompt.where)
            plan.append(_Piece(True, None, prompt.where, whole, masked=prompt.text))
        else:
            plan.append(_Piece(trained, None, where, batch.add(text, where)))
        before = segment
    return plan


def _examples(plans: Sequence[_Plan], batch: _Batch, room: int) -> Iterator[Example | Dropped]:
    """The tokens of each plan and their mask, cut to the room there is; made for all together, as numpy likes it."""
    pieces = list(itertools.chain.from_iterable(plans))
    if not pieces:
        return
    ids = list(map(batch.ids, pieces))
    length_P = np.array(list(map(len, ids)))
    end_P = np.cumsum(length_P)
    tokens_T = np.concatenate(ids)
    loss_mask_T = np.repeat([piece.trained for piece in pieces], length_P)
    for number, piece in enumerate(pieces):
        if piece.masked is not None:
            start = end_P[number] - length_P[number]
            loss_mask_T[start : min(start + batch.length(piece.where, piece.masked), end_P[number])] = False
    start = 0
    for end in end_P[np.cumsum(list(map(len, plans))) - 1].tolist():
        yield _cut(tokens_T[start:end], loss_mask_T[start:end], room)
        start = end


def _cut(tokens_n: np.ndarray, loss_mask_n: np.ndarray, room: int) -> Example | Dropped:
    """The example, without the end for which there is no room."""
    if len(tokens_n) <= room:
        return Example(tokens_n, loss_mask_n)
    trained = np.flatnonzero(loss_mask_n[:room])
    if not len(trained):
        return Dropped("prompt_too_long")
    length = trained[-1] + 1
    return Example(tokens_n[:length], loss_mask_n[:length], truncated=True)


def _answers(record: Record) -> list[str]:
    if isinstance(record, Instruction):
        return [record.output]
    return [message.content for message in record.messages if message.role == "assistant"]
