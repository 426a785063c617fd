"""A watermark in the choice of tokens, after Kirchenbauer et al. 2023 (https://arxiv.org/abs/2301.10226).

The tokens before a place and a secret key divide the vocabulary into green and red tokens. Generation adds δ to the
scores of the green ones; a text of a person, who does not know the key, has a share γ of them by chance, and a text
made this way has more. Whether a token is green is one draw of Threefry-2x32 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3") with (key, context) as its key and the token's id as its counter: it needs no shuffled
vocabulary, costs some hundred integer operations a token, and does not depend on how far the vocabulary is padded.
Finding a watermark needs neither JAX nor the model.

B batch, V padded vocabulary, W context width, R remembered tokens, S = R − W, N distinct n-grams of W + 1 tokens.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.hashing import sha256_bytes

if TYPE_CHECKING:
    import jax

# A text is called marked above this z, as in the paper, …
DETECTED_ABOVE = 4.0
# … and only where chance gives so many green tokens, or more, in no more than this share of unmarked texts of its
# length. The normal approximation that z rests on is off for short texts: with γ 0.25 and 10 tokens, z > 4 comes by
# chance in 4.2 of 10,000, and only from 121 tokens on always in fewer than 1.
BY_CHANCE_AT_MOST = 1e-4

# How many tokens back generation looks for an n-gram that it would repeat.
REMEMBERED = 256

_SHORTEST_KEY = 16  # bytes
_MOST_CONTEXT = 16

_PURPOSE = b"alpaca_jax watermark 1\0"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


@dataclasses.dataclass(frozen=True)
class Watermark:
    """A watermark's settings; the same ones make it and find it.

    With the paper's δ 2 and the context width 1, about one in ten of SmolLM2-135M's answers of 200 tokens at
    temperature 0.7 and top-p 0.9 were missed: half of their tokens were green, and where a text turns in a circle few
    n-grams are left to count. Such circles are rarer with a wider context, since one word does not lead on to the same
    green ones each time. Its price: a changed word hides as many n-grams as the context is wide, and one.

    Attributes:
      key: the secret; at least 16 bytes.
      gamma: γ, the share of the vocabulary that is green.
      delta: δ, what is added to a green token's score before the temperature divides it.
      context_width: how many tokens before a place decide what is green there.

    Raises:
      UserError: a value out of range.
    """

    key: bytes = dataclasses.field(repr=False)
    gamma: float = 0.25
    delta: float = 3.0
    context_width: int = 4

    def __post_init__(self):
        checks = {
            "gamma": (0.01 <= self.gamma <= 0.99, "a number from 0.01 to 0.99"),
            "delta": (0 < self.delta <= 100, "a number above 0, at most 100"),
            "context_width": (1 <= self.context_width <= _MOST_CONTEXT, f"a whole number from 1 to {_MOST_CONTEXT}"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise UserError(f"--{name}", expected=expected, found=str(getattr(self, name)), remedy="correct it")
        if len(self.key) < _SHORTEST_KEY:
            expected, found = f"at least {_SHORTEST_KEY} secret bytes", f"{len(self.key)}"
            raise UserError("watermark key", expected=expected, found=found, remedy="make a new key")


class Detection(NamedTuple):
    """What a text says about a watermark.

    Attributes:
      z: (g − γT) / √(Tγ(1 − γ)) for g green ones of T scored tokens; 0 where none is scored.
      p: the chance of this z or a larger one in an unmarked text, by the normal distribution.
      p_exact: the same by the binomial distribution, which is right for short texts too.
      tokens: T, the scored ones: each n-gram of `context_width` + 1 tokens counts once, wherever it comes again.
      green: g, the green ones of these.
      detected: whether z > 4 and p_exact ≤ 0.0001.
    """

    z: float
    p: float
    p_exact: float
    tokens: int
    green: int
    detected: bool

    @classmethod
    def of(cls, green: int, tokens: int, gamma: float) -> "Detection":
        """The statistics of so many green ones among so many scored tokens."""
        from scipy.special import bdtrc

        z = (green - gamma * tokens) / math.sqrt(tokens * gamma * (1 - gamma)) if tokens else 0.0
        p_exact = float(bdtrc(green - 1, tokens, gamma)) if green else 1.0
        detected = z > DETECTED_ABOVE and p_exact <= BY_CHANCE_AT_MOST
        return cls(z, 0.5 * math.erfc(z / math.sqrt(2)), p_exact, tokens, green, detected)


def bias(logits_BV: "jax.Array", recent_BR: "jax.Array", watermark: Watermark, ends: Collection[int]) -> "jax.Array":
    """The scores with δ added to the green tokens; a step of sampling, before the temperature, for use under `jit`.

    A token whose n-gram is among the remembered tokens already gets nothing: it would not be counted again, and δ would
    hold a text that has begun to repeat itself in its loop. Ids that only pad the vocabulary stay at -inf.

    Args:
      logits_BV: scores, float32.
      recent_BR: the last `REMEMBERED` tokens of each row, the prompt's included, the latest last; -1 where there are
        fewer. A row with fewer than `context_width` is left as it is.
      watermark: the settings; constants of the compiled program.
      ends: the tokens that end an answer, which no text has and no detector counts. Instead of a draw they get the
        mean, γδ: all prompts of a template end alike, so that by a draw one key in four (γ) would favour the end at the
        very beginning of every answer.
    """
    import jax.numpy as jnp

    width, (rows, remembered) = watermark.context_width, recent_BR.shape
    vocab_size = logits_BV.shape[1]
    context_BW = recent_BR[:, remembered - width :]
    state_2B1 = [word_B[:, None] for word_B in _states(context_BW.astype(jnp.uint32), watermark)]
    ids_1V = jnp.arange(vocab_size, dtype=jnp.uint32)[None, :]
    # Place s of the followers comes after the W tokens from place s on.
    followers_BS = recent_BR[:, width:]
    starts = range(width)
    again_BS = jnp.stack([recent_BR[:, i : remembered - width + i] == context_BW[:, i, None] for i in starts]).all(0)
    known_BS = jnp.where(again_BS, followers_BS, vocab_size)  # beyond the last id: dropped
    repeats_BV = jnp.zeros(logits_BV.shape, bool).at[jnp.arange(rows)[:, None], known_BS].set(True, mode="drop")
    added_BV = jnp.where(_is_green(state_2B1, ids_1V, watermark) & ~repeats_BV, watermark.delta, 0.0)
    is_end_1V = jnp.isin(ids_1V, jnp.array(sorted(ends), jnp.uint32))
    added_BV = jnp.where(is_end_1V, watermark.gamma * watermark.delta, added_BV)
    return jnp.where(jnp.all(context_BW >= 0, axis=1, keepdims=True), logits_BV + added_BV, logits_BV)


def detect(tokens: Sequence[int] | np.ndarray, watermark: Watermark) -> Detection:
    """Looks for a watermark in a text's tokens; the prompt, whose tokens nobody chose, is better left out."""
    green_N = green(distinct_ngrams(tokens, watermark.context_width), watermark)
    return Detection.of(int(green_N.sum()), len(green_N), watermark.gamma)


def distinct_ngrams(tokens: Sequence[int] | np.ndarray, context_width: int) -> np.ndarray:
    """Each run of `context_width` + 1 tokens once, uint32 [N, W + 1].

    Whether a token is green depends on its n-gram alone, so that a repeated one says nothing new; counted again it
    would make a text that repeats itself look marked.
    """
    tokens = np.asarray(tokens, dtype=np.uint32)
    if len(tokens) <= context_width:
        return np.zeros((0, context_width + 1), np.uint32)
    return np.unique(np.lib.stride_tricks.sliding_window_view(tokens, context_width + 1), axis=0)


def green(ngrams: np.ndarray, watermark: Watermark) -> np.ndarray:
    """Whether the last token of each n-gram, uint32 [N, W + 1], is green after those before it, bool [N]."""
    state_2N = _states(ngrams[:, :-1], watermark)
    return _is_green(state_2N, ngrams[:, -1], watermark)


# What follows is written once, for numpy's arrays and for JAX's: operators on uint32 arrays mean the same to both.


def _states(contexts_BW: Any, watermark: Watermark) -> list[Any]:
    """The key of each row's draws, two words [B]: the secret key, mixed with the row's tokens one after another."""
    secret = bytes.fromhex(sha256_bytes(_PURPOSE + watermark.key))
    key = np.frombuffer(secret[:8], dtype="<u4")
    first_B, second_B = (contexts_BW[:, 0] * np.uint32(0) + word for word in key.astype(np.uint32))
    for place in range(watermark.context_width):
        first_B, second_B = threefry_2x32(first_B, second_B, contexts_BW[:, place], contexts_BW[:, place] * 0)
    return [first_B, second_B]


def _is_green(state: Sequence[Any], ids: Any, watermark: Watermark) -> Any:
    word, _ = threefry_2x32(state[0], state[1], ids, ids * 0)
    return word < np.uint32(round(watermark.gamma * 2**32))


def threefry_2x32(key_0: Any, key_1: Any, counter_0: Any, counter_1: Any) -> tuple[Any, Any]:
    """Two random words for each key and counter, 20 rounds; uint32 arrays of numpy or JAX that broadcast together."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ _PARITY)
    word_0, word_1 = counter_0 + keys[0], counter_1 + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            word_0 = word_0 + word_1
            word_1 = (word_1 << rotation | word_1 >> (32 - rotation)) ^ word_0
        word_0 = word_0 + keys[(block + 1) % 3]
        word_1 = word_1 + keys[(block + 2) % 3] + np.uint32(block + 1)
    return word_0, word_1
