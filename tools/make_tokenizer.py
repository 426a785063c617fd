"""Trains the small SentencePiece tokenizer that comes with the package, on the embedded seed tasks.

python tools/make_tokenizer.py [--input=FILE] [--out=FILE] [--vocab_size=N]

The settings are LLaMA's: byte pairs, bytes for what the vocabulary lacks, digits one by one, no normalisation, unk 0,
bos 1, eos 2. The same text gives the same bytes.
"""

import io
from collections.abc import Iterator

from alpaca_jax.data.embedded import SEED_TASKS, TOKENIZER
from alpaca_jax.data.instructions import read_records
from alpaca_jax.data.prompt import DEFAULT_TEMPLATE, template_named
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.files import explain_os_errors
from alpaca_jax.support.program import Flags, run_program


def main() -> int | None:
    """Parses the flags, trains and writes the model."""
    flags = Flags(prog="python tools/make_tokenizer.py", description=__doc__)
    flags.add_argument("--input", default=str(SEED_TASKS), help="instruction file (default: the embedded seed tasks)")
    flags.add_argument("--out", default=str(TOKENIZER), help="where to write (default: the embedded tokenizer)")
    flags.add_argument("--vocab_size", type=int, default=2048, help="pieces (default 2048)")
    values = flags.parse()

    model = train(list(_texts(values.input)), values.vocab_size)
    with explain_os_errors(values.out), open(values.out, "wb") as file:
        file.write(model)
    print(f"{values.out}: {values.vocab_size} pieces, {len(model):,} bytes")
    return 0


def train(texts: list[str], vocab_size: int) -> bytes:
    """The model file of a tokenizer trained on `texts`.

    Raises:
      UserError: the texts do not yield that many pieces.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            character_coverage=0.9995,
            max_sentence_length=1 << 20,  # in bytes; the trainer passes over longer ones
            num_threads=1,  # with more, the order of equal merges could differ
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            "--vocab_size",
            expected="a size that the text yields",
            found=shorten(str(error), 200),
            remedy="try a smaller one",
        ) from error
    return model.getvalue()


def _texts(path: str) -> Iterator[str]:
    """Prompts and answers apart, as they are tokenised."""
    for located in read_records(path):
        for segment in template_named(DEFAULT_TEMPLATE).segments(located.record):
            if not segment.special:
                yield segment.text


if __name__ == "__main__":
    run_program(main)
