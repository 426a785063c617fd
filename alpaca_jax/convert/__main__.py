"""`python -m alpaca_jax.convert`: brings models of other programs in."""

import sys
from collections.abc import Sequence

from alpaca_jax.support.program import Flags, refuse_unknown, run_program

_PROGRAM = "python -m alpaca_jax.convert"
_DESCRIPTION = f"""Brings LLaMA weights of other programs in.

  {_PROGRAM} import --source=PATH --out=DIR

PATH is a Hugging Face folder (config.json, *.safetensors, its tokenizer) or a .gguf file of a LLaMA. DIR is then a
checkpoint for `train` and `generate`. What would change the model's answers and is not supported is refused by name.
"""


def main() -> int | None:
    """Runs the command that the arguments name."""
    arguments = sys.argv[1:]
    flags = Flags(prog=_PROGRAM, description=_DESCRIPTION)
    flags.add_argument("command", choices=["import"], metavar="import", help="`import --help` shows its flags")
    if not arguments or arguments[0].startswith("-"):
        flags.parse(arguments)
    command, *rest = arguments
    if command != "import":
        refuse_unknown(command, ["import"], _PROGRAM)
    _import(rest)
    return None


def _import(arguments: Sequence[str]) -> None:
    flags = Flags(
        prog=f"{_PROGRAM} import",
        description="Imports a LLaMA: its weights, dequantised where they are quantised, and its tokenizer.",
    )
    flags.add_argument(
        "--source", required=True, metavar="PATH", help="a Hugging Face folder with safetensors, or a .gguf file"
    )
    flags.add_argument(
        "--out", required=True, metavar="DIR", help="the checkpoint folder to make; it must not exist yet"
    )
    values = flags.parse(arguments)

    from alpaca_jax.convert.importer import import_checkpoint
    from alpaca_jax.support.progress import console

    folder = import_checkpoint(values.source, values.out)
    model = folder.model
    console.print(
        f"imported {model.num_parameters:,} parameters ({model.num_layers} layers of {model.hidden_size}, "
        f"vocabulary {model.vocab_size}) to {folder.path}",
        markup=False,
    )


if __name__ == "__main__":
    run_program(main)
