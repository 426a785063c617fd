"""Records over a length in tokens, template included."""

from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.data.audit.inspection import Verdict
from alpaca_jax.data.audit.kinds import Found, excerpt
from alpaca_jax.data.examples import Dropped, make_examples
from alpaca_jax.data.instructions import records_of
from alpaca_jax.data.prompt import DEFAULT_TEMPLATE, template_named
from alpaca_jax.data.tokenizer import load_tokenizer


class Lengths:
    """Finds what `prepare` would cut or drop at a length, with the default template."""

    def __init__(self, tokenizer: Path, seq_len: int):
        """Loads the tokenizer.

        Raises:
          UserError: there is none, or it is damaged.
        """
        self._tokenizer, self._seq_len = load_tokenizer(tokenizer), seq_len
        self._template = template_named(DEFAULT_TEMPLATE)

    def find(self, verdicts: Sequence[Verdict]) -> list[Found | None]:
        """For each verdict, whether one of the records kept of it is too long."""
        kept = [
            (place, located.record)
            for place, verdict in enumerate(verdicts)
            for record in verdict.kept
            for located in records_of(verdict.value._replace(value=record))
        ]
        records = [record for _, record in kept]
        found: list[Found | None] = [None] * len(verdicts)
        examples = make_examples(records, self._tokenizer, self._template, self._seq_len)
        for (place, record), example in zip(kept, examples, strict=True):
            if isinstance(example, Dropped):
                if example.reason != "prompt_too_long":
                    continue
                why = f"the prompt alone is over {self._seq_len} tokens"
            elif example.truncated:
                why = f"over {self._seq_len} tokens: the end is cut"
            else:
                continue
            found[place] = found[place] or Found("too_long", why, excerpt(record.identity()[0]))
        return found
