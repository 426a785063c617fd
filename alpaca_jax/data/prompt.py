"""The Alpaca prompt: the only template in the code. Published weights answer worse if one byte of it differs."""

from alpaca_jax.support.hashing import sha256_json

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def render_prompt(instruction: str, input: str = "") -> str:
    r"""The text a model is asked to continue; an empty `input` selects the shorter form.

    >>> render_prompt("Add.", "1 and 2")[-43:]
    'Add.\n\n### Input:\n1 and 2\n\n### Response:'
    """
    if input == "":
        return _WITHOUT_INPUT.format(instruction=instruction)
    return _WITH_INPUT.format(instruction=instruction, input=input)


def template_sha256() -> str:
    """The template's hash, which travels with datasets and checkpoints so that a mismatch can be refused."""
    return sha256_json([_WITH_INPUT, _WITHOUT_INPUT])
