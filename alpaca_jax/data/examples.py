"""From an instruction to the tokens a model is trained on, and the mask that says on which of them.

n: tokens of one example.
"""

import dataclasses
from typing import Literal

import numpy as np

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.data.prompt import render_prompt
from alpaca_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One example: prompt, response and eos as ids, joined; trained on the response and its eos.

    "Who painted Guernica?" and its answer "Pablo Picasso", with a tokenizer that numbers whole words from 10 (the
    middle of the prompt is left out):

        piece      <s>  Below  is  an  …  #  Response  :  Pablo  Picasso  </s>
        tokens       1     10  11  12  … 26        33 28     34       35     2
        loss_mask    .      .   .   .  …  .         .  .      x        x     x

    Attributes:
      tokens: int32 [n].
      loss_mask: bool [n], True where the token is to be predicted.
      truncated: whether the end of the response, with its eos, was cut off.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    truncated: bool = False


@dataclasses.dataclass(frozen=True)
class Dropped:
    """An instruction that gives no example, and why."""

    reason: Literal["empty_output", "prompt_too_long"]


def make_example(instruction: Instruction, tokenizer: Tokenizer, seq_len: int) -> Example | Dropped:
    """Tokenises prompt and response apart and joins the ids, so that training sees what generation will produce.

    An example of n tokens gives n − 1 pairs of input and target, so `seq_len + 1` tokens fit a row. A longer one loses
    its end (and then teaches no eos). Dropped are a blank output and a prompt that leaves no room for a response token.
    """
    if not instruction.output.strip():
        return Dropped("empty_output")
    prompt = tokenizer.encode_prompt(render_prompt(instruction.instruction, instruction.input))
    if len(prompt) > seq_len:
        return Dropped("prompt_too_long")
    response = tokenizer.encode_response(instruction.output)
    tokens_n = np.array([*prompt, *response, tokenizer.eos_id], dtype=np.int32)
    loss_mask_n = np.arange(len(tokens_n)) >= len(prompt)
    room = seq_len + 1
    return Example(tokens_n[:room], loss_mask_n[:room], truncated=len(tokens_n) > room)
