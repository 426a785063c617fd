"""Every command of the whole loop, in its order: what `tools.whole_loop` runs, and what a user would type.

Sizes are chosen for SmolLM2-135M on two CPU cores, where it makes some forty tokens a second for eight texts at once.
"""

import dataclasses
from pathlib import Path

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.evaluation.embedded import QUESTIONS
from alpaca_jax.support.errors import UserError
from tools.stages import shown


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
      records: new instructions that are asked for.
      budget_usd: the most that they may cost; it ends the search where the model writes few that are good.
      updates: of the training, of 4 rows of 512 tokens.
      answer_tokens: of an answer to a task of the evaluation, at most.

    Raises:
      UserError: one that is not above 0.
    """

    records: int
    budget_usd: float
    updates: int
    answer_tokens: int

    def __post_init__(self) -> None:
        """Refuses what one of the programs would refuse after an hour."""
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise UserError(f"--{name}", expected="more than 0", found=str(value), remedy="correct it")


# The budget counts what such a model costs at a vendor's. The template is the one that SmolLM2 has been trained with.
_ASKED = "--base_url={address}/v1 --model=base --price_in=0.15 --price_out=0.60 --timeout=1800 --json"
_SERVE = "serve --port=0 --timeout=1800 --feedback={out}/feedback.sqlite"
_ANSWER = "evaluate answer --max_new_tokens={answer_tokens} --json"
_DETECT = "watermark detect --key={out}/watermark_key.json --tokenizer={out}/base --json"

_COMMANDS = {
    "import": "convert import --source={source} --out={out}/base",
    "serve base": f"{_SERVE} --checkpoint={{out}}/base --template=smollm2",
    "make": f"""
        selfinstruct --seeds={{seeds}} --out={{out}}/new.jsonl --num={{records}} --budget_usd={{budget_usd}}
        --api=completions --temperature=0.7 --max_tokens=640 --concurrency=2 {_ASKED}""",
    "audit": "audit --input={out}/new.jsonl --eval={questions} --fix={out}/clean.jsonl --json",
    "prepare": """
        prepare --input={seeds} --input={out}/clean.jsonl --tokenizer={out}/base --seq_len=512 --eval_fraction=0.1
        --template=smollm2 --out={out}/data --json""",
    "plan": "plan --config=configs/smollm2_135m.py:a100x8 --json",
    "train": """
        train --config=configs/smollm2_135m.py:cpu --workdir={out}/tuned --config.model.checkpoint={out}/base
        --config.data.path={out}/data --config.train.steps={updates} --config.evaluation.every=8
        --config.checkpoint.every=8 --config.checkpoint.keep=1 --config.checkpoint.keep_best=0""",
    "answer before": f"{_ANSWER} --checkpoint={{out}}/base --template=smollm2 --out={{out}}/answers_base.jsonl",
    "answer after": f"{_ANSWER} --checkpoint={{out}}/tuned --out={{out}}/answers_tuned.jsonl",
    "pair": """
        evaluate pair --answers={out}/answers_tuned.jsonl --baseline={out}/answers_base.jsonl --out={out}/pairs.json
        --json""",
    "judge": f"evaluate judge --pairs={{out}}/pairs.json --out={{out}}/votes.jsonl --max_tokens=48 {_ASKED}",
    "report": "evaluate report --votes={out}/votes.jsonl --training={out}/clean.jsonl --out={out}/report --json",
    "export": "convert export --checkpoint={out}/tuned --out={out}/tuned_hf",
    "verify": "convert verify --checkpoint={out}/tuned --reference={out}/tuned_hf --json",
    "diff": "convert diff --base={out}/base --tuned={out}/tuned_hf --out={out}/diff",
    "recover": "convert recover --base={out}/base --diff={out}/diff --out={out}/recovered",
    "key": "watermark key --out={out}/watermark_key.json",
    "serve tuned": f"""{_SERVE} --checkpoint={{out}}/tuned --watermark_key={{out}}/watermark_key.json
        --moderation=wordlist --wordlist={{out}}/words.txt""",
    "control": """
        generate --checkpoint={out}/tuned --input={out}/long_questions.jsonl --out={out}/unmarked.jsonl
        --max_new_tokens=300 --temperature=1 --top_p=1""",
    "detect": f"{_DETECT} --input={{out}}/marked.jsonl",
    "detect in control": f"{_DETECT} --input={{out}}/unmarked.jsonl",
}


def commands(folder: Path, sizes: Sizes, source: Path, address: str) -> dict[str, list[str]]:
    """The commands by a short name, each a program and its flags.

    Args:
      folder: of the whole loop.
      sizes: how much is done.
      source: the weights to begin with.
      address: of the server that some of them ask.
    """
    places = {"out": shown(folder), "seeds": shown(SEED_TASKS), "questions": shown(QUESTIONS), "source": source}
    values = places | dataclasses.asdict(sizes) | {"address": address}
    # A folder's name may hold a space: words are told apart before it is put in.
    return {name: [word.format_map(values) for word in text.split()] for name, text in _COMMANDS.items()}
