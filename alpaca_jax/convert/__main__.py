"""`python -m alpaca_jax.convert`: brings models of other programs in, takes ours out, and proves both."""

from collections.abc import Sequence

from alpaca_jax.support.program import Command, Flags, print_json, run_command, run_program

_PROGRAM = "python -m alpaca_jax.convert"
_DESCRIPTION = f"""Brings models of other programs in, takes ours out, and proves both.

  {_PROGRAM} import  --source=PATH --out=DIR
  {_PROGRAM} export  --checkpoint=DIR --out=DIR [--dtype=bfloat16]
  {_PROGRAM} verify  --checkpoint=DIR --reference=PATH [--json]
  {_PROGRAM} diff    --base=A --tuned=B --out=D
  {_PROGRAM} recover --base=A --diff=D --out=B

PATH, A and B are a Hugging Face folder (safetensors or .bin), a Meta folder (consolidated.*.pth), a .gguf file or a
checkpoint of this project; `import` makes such a checkpoint, for `train` and `generate`. LLaMA 1, 2 and 3, Mistral,
Qwen 2.5 and 3 and their like are known; what would change a model's answers and is not supported is refused by name.
`COMMAND --help` explains each.
"""
_OUT = "the folder to make; it must not exist yet"
_A_MODEL = "a Hugging Face or Meta folder, a .gguf file, or a checkpoint"
_CHECKPOINT = "what `import` wrote, or a work directory of `train`; DIR/best, DIR/200: that save"


def main() -> int | None:
    """Runs the command that the arguments name."""
    return run_command(_PROGRAM, _DESCRIPTION, _COMMANDS)


def _flags(command: str, description: str, **required: str) -> Flags:
    flags = Flags(prog=f"{_PROGRAM} {command}", description=description)
    for name, text in required.items():
        flags.add_argument(f"--{name}", required=True, metavar="DIR" if name == "out" else "PATH", help=text)
    return flags


def _import(arguments: Sequence[str]) -> None:
    flags = _flags(
        "import",
        "Imports a model: its weights, dequantised where they are quantised, and its tokenizer. Every bit of weights\n"
        "that are not quantised is kept; certificate.json in DIR says of each tensor what it is.",
        source="a Hugging Face folder, a Meta folder or a .gguf file",
        out=_OUT,
    )
    values = flags.parse(arguments)

    from alpaca_jax.convert.importer import import_checkpoint

    folder = import_checkpoint(values.source, values.out)
    model = folder.model
    _say(
        f"imported {model.num_parameters:,} parameters ({model.num_layers} layers of {model.hidden_size}, "
        f"vocabulary {model.vocab_size}) to {folder.path}"
    )


def _export(arguments: Sequence[str]) -> None:
    flags = _flags(
        "export",
        "Writes a checkpoint, its newest save if none is named, as a Hugging Face folder, which transformers and vLLM\n"
        "load. What was imported comes out bit for bit, and is held against its certificate on the way.",
        checkpoint=_CHECKPOINT,
        out=_OUT,
    )
    flags.add_argument(
        "--dtype", metavar="TYPE", help="bfloat16, float16 or float32 (default: the types of the checkpoint)"
    )
    values = flags.parse(arguments)

    from alpaca_jax.convert.exporter import export_checkpoint

    _say(f"exported to {export_checkpoint(values.checkpoint, values.out, values.dtype)}")


def _verify(arguments: Sequence[str]) -> int:
    flags = _flags(
        "verify",
        "Compares the checkpoint's logits with those that transformers computes from a reference, on a text and on\n"
        "4,096 random tokens (fewer where the model allows fewer). Exit code 1 where they differ by more than the\n"
        "tolerance. Folders with a certificate are held against it, tensor by tensor.",
        checkpoint=_CHECKPOINT,
        reference="a Hugging Face folder with safetensors, or a .gguf file",
    )
    flags.add_argument(
        "--dtype", default="float32", metavar="TYPE", help="float32 (default), or bfloat16 where memory is short"
    )
    flags.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="float32: the largest error, as a share of the largest logit (default 0.0001); bfloat16: the largest "
        "mean KL divergence (default 0.05)",
    )
    flags.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    values = flags.parse(arguments)

    from alpaca_jax.convert.verify import verify

    result = verify(values.checkpoint, values.reference, values.tolerance, values.dtype)
    _say(
        f"{'equal' if result.passed else 'DIFFERENT'}: largest error {result.max_abs_error:.3g} of logits up to "
        f"{result.largest_logit:.3g}, mean KL divergence {result.kl:.3g} nats, the same likeliest token at "
        f"{result.top1_agreement:.1%} of {len(result.positions)} positions, up to {result.positions[-1]:,}, "
        f"in {result.dtype}"
    )
    if values.json:
        print_json(result.to_json())
    return 0 if result.passed else 1


def _diff(arguments: Sequence[str]) -> None:
    flags = _flags(
        "diff",
        "Writes what makes the tuned model out of its base, and is useless without it.",
        base=f"the model that was fine-tuned: {_A_MODEL}",
        tuned="the fine-tuned model, likewise",
        out=_OUT,
    )
    flags.add_argument(
        "--mode",
        default="xor",
        help="xor (default), the bits of both XORed: every bit comes back; or additive, float32 tuned − base as a "
        "Hugging Face folder, the form of Alpaca's published diff",
    )
    values = flags.parse(arguments)

    from alpaca_jax.convert.diff import make_diff

    _say(f"{make_diff(values.base, values.tuned, values.out, values.mode)}, in {values.out}")


def _recover(arguments: Sequence[str]) -> None:
    flags = _flags(
        "recover",
        "Makes the tuned model, a Hugging Face folder, out of its base and a diff. Each tensor is checked by SHA-256;\n"
        "a diff of another program, which has no sums, by --expect_sum.",
        base=f"the model that was fine-tuned: {_A_MODEL}",
        diff="the folder of the diff",
        out=_OUT,
    )
    flags.add_argument(
        "--expect_sum",
        type=float,
        metavar="S",
        help="additive diffs: the sum of all the recovered numbers, within 0.01, with or without rotary buffers",
    )
    values = flags.parse(arguments)

    from alpaca_jax.convert.recover import recover

    _say(f"{recover(values.base, values.diff, values.out, values.expect_sum)}, in {values.out}")


def _say(line: str) -> None:
    from alpaca_jax.support.progress import console

    console.print(line, markup=False)


_COMMANDS: dict[str, Command] = {
    "import": _import,
    "export": _export,
    "verify": _verify,
    "diff": _diff,
    "recover": _recover,
}

if __name__ == "__main__":
    run_program(main)
