"""How fast `prepare` is, side by side with the original's way of tokenising, and how much memory it takes.

python tools/bench_prepare.py --input=FILE --tokenizer=MODEL [--records=52002] [--seq_len=512] [--rounds=3]
python tools/bench_prepare.py --input=FILE --tokenizer=MODEL --original_python=PYTHON
python tools/bench_prepare.py --input=FILE --tokenizer=MODEL --records=1000000 --rounds=0

The file is repeated until there are enough records; in each copy some words of the answers are new, more than further
text of the same kind would bring, so that nothing is gained by having seen the file before. Both ways run as programs
of their own, by turns. Two times are taken: of the whole program, which for `prepare` ends with the dataset on disk,
and of tokenising and packing alone, from the opening of the file until all rows are in memory, packages imported.

The original's way, made again from its description: load the JSON, fill in the template, tokenise each prompt with its
answer and each prompt alone, one by one, with the slow tokenizer (Python over SentencePiece), mask the prompts, and pad
batches of 128. It keeps nothing, so it does this at every start of a training. It needs the extra `torch`.

Its slow tokenizer is that of the transformers installed here (in version 5 `SentencePieceBackend`, in its legacy
manner). `--original_python` names an interpreter in whose environment are the packages of the original's time, and has
it run there as well:

    pip install transformers==4.28.1 sentencepiece==0.1.98 'protobuf<4' 'numpy<2' torch

With today's sentencepiece, transformers 4.28.1 takes as long as version 5 does; with its own, half as long again.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, run_program

# The different words of n records of Alpaca grow like n^0.61: 48 thousand more than 4,000 bring 2.5 new ones each.
_NEW_WORDS = 3
_IGNORED = -100
_BATCH = 128


def main() -> int | None:
    """Parses the flags, makes the records, runs the programs and says how long they took."""
    flags = Flags(prog="python tools/bench_prepare.py", description=__doc__)
    flags.add_argument("--input", metavar="FILE", required=True, help="instruction file to repeat")
    flags.add_argument("--tokenizer", metavar="MODEL", required=True, help="SentencePiece model")
    flags.add_argument("--records", metavar="N", type=int, default=52002, help="how many to make (default 52002)")
    flags.add_argument("--seq_len", metavar="N", type=int, default=512, help="tokens in a row (default 512)")
    flags.add_argument("--rounds", metavar="N", type=int, default=3, help="runs of each way; 0: ours alone, once")
    ways = {"original": tokenise_as_the_original, "ours": tokenise_and_pack}
    flags.add_argument("--original_python", metavar="PYTHON", help="also run the original with this interpreter")
    flags.add_argument("--way", choices=list(ways), help="only run this way, on the file as it is")
    values = flags.parse()
    if values.way:
        print(ways[values.way](values.input, values.tokenizer, values.seq_len))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records.json"
        make_records(values.input, records, values.records)
        common = [f"--input={records}", f"--tokenizer={values.tokenizer}", f"--seq_len={values.seq_len}"]
        times = Times()
        for turn in range(max(1, values.rounds)):
            out = Path(folder) / f"packed{turn}"
            prepare = [sys.executable, "-m", "alpaca_jax.prepare", *common, f"--out={out}", "--json"]
            seconds, said, printed = run(prepare)
            times.whole["prepare"].append(seconds)
            print(f"prepare   {said}  {json.loads(printed.splitlines()[-1])}", flush=True)
            for way, python in runs_of_each_round(values):
                seconds, said, printed = run([python, __file__, f"--way={way}", *common])
                alone, _, versions = printed.splitlines()[-1].partition(" ")
                print(f"{way:9} {said}  of which tokenising and packing {float(alone):.2f} s {versions}", flush=True)
                name = f"{way} {versions}".strip()
                times.whole[name].append(seconds)
                times.alone[name].append(float(alone))
    if values.rounds:
        times.compare()
    return 0


def runs_of_each_round(values: argparse.Namespace) -> list[tuple[str, str]]:
    """The ways, each with the interpreter that is to run it."""
    pythons = filter(None, (sys.executable, values.original_python))
    return [("ours", sys.executable), *(("original", python) for python in pythons)] if values.rounds else []


class Times:
    """The seconds of all runs, by name: of whole programs, and of tokenising and packing alone."""

    def __init__(self) -> None:
        self.whole: defaultdict[str, list[float]] = defaultdict(list)
        self.alone: defaultdict[str, list[float]] = defaultdict(list)

    def compare(self) -> None:
        """Prints the medians of each original beside ours."""
        for title, times, ours in (
            ("whole programs", self.whole, "prepare"),
            ("tokenising and packing", self.alone, "ours"),
        ):
            fast = statistics.median(times[ours])
            for name in (name for name in times if name.startswith("original")):
                slow = statistics.median(times[name])
                print(f"{title}, medians: {fast:.2f} s, {name} {slow:.2f} s: {slow / fast:.1f}×")


def make_records(source: str | Path, target: Path, count: int) -> None:
    """Writes a JSON list of `count` records: those of `source` again and again, the copies with new words."""
    from alpaca_jax.data.instructions import Instruction, read_records

    records = [located.record for located in read_records(source) if isinstance(located.record, Instruction)]
    if not records:
        raise UserError(str(source), expected="instructions", found="none", remedy="give another file")
    words = sorted({word for record in records for word in record.output.split() if word.isalpha() and len(word) > 5})
    chance = random.Random(0)
    with open(target, "w", encoding="utf-8") as file:
        for number in range(count):
            record = records[number % len(records)]
            output = record.output
            if number >= len(records) and words:
                output = " ".join([output, *(_new_word(words, chance) for _ in range(_NEW_WORDS))])
            entry = {"instruction": record.instruction, "input": record.input, "output": output}
            file.write(f"{',' if number else '['}\n{json.dumps(entry, ensure_ascii=False)}")
        file.write("\n]\n")


def _new_word(words: list[str], chance: random.Random) -> str:
    first, second = chance.choice(words), chance.choice(words)
    return first[: len(first) // 2] + second[len(second) // 2 :]


def run(command: list[str]) -> tuple[float, str, str]:
    """Seconds; what to say of the run, with its peak resident memory (all its processes, sampled); standard output."""
    import psutil

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            parent = psutil.Process(process.pid)
            while not ended.wait(0.1):
                peak = max(peak, sum(map(_resident, [parent, *parent.children(recursive=True)])))

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stdout is not None
        printed = process.stdout.read()
        process.wait()
        seconds = time.perf_counter() - start
        ended.set()
        watcher.join()
    if process.returncode:
        raise UserError(" ".join(command[:3]), expected="a run to the end", found="a failure", remedy="see above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, f"{seconds:7.2f} s  (processors {processor:.1f} s, peak {peak / 2**20:,.0f} MiB)", printed


def _resident(process: Any) -> int:
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def tokenise_and_pack(path: str, tokenizer: str, seq_len: int) -> float:
    """What `prepare` does before it writes; seconds."""
    import numpy as np

    from alpaca_jax.data.collection import collect
    from alpaca_jax.data.packing import PackedRows
    from alpaca_jax.data.tokenising import Tokenising

    start = time.perf_counter()
    work = Tokenising(tokenizer, "alpaca", "exact", seq_len, seed=0, eval_fraction=0.0)
    with tempfile.TemporaryDirectory() as folder:
        collection = collect(work, [(Path(path), 1.0)], Path(folder))
        rows = PackedRows(collection.table, np.arange(len(collection.copies)), seq_len)
        assert sum(1 for _ in rows) == len(rows)
        return time.perf_counter() - start


def slow_tokenizer(path: str) -> Any:
    """The slow tokenizer of the transformers that is installed, with the special tokens that the original gives it."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    if version("transformers").startswith("4."):
        from transformers import LlamaTokenizer

        slow = LlamaTokenizer(path)
        slow.add_special_tokens(special)
        return slow
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    return SentencePieceBackend(vocab_file=path, legacy=True, **special)


def tokenise_as_the_original(path: str, tokenizer: str, seq_len: int) -> str:
    """What the original does before its first update, and its padding; seconds, and with which packages."""
    import copy

    import torch
    import transformers  # noqa: F401  its import is not timed

    from alpaca_jax.data.prompt import render_prompt

    start = time.perf_counter()
    slow = slow_tokenizer(tokenizer)
    with open(path, encoding="utf-8") as file:
        records = json.load(file)
    prompts = [render_prompt(record["instruction"], record["input"]) for record in records]
    wholes = [prompt + record["output"] + slow.eos_token for prompt, record in zip(prompts, records, strict=True)]

    def tokenise(texts: list[str]) -> tuple[list[Any], list[int]]:
        encoded = [
            slow(text, return_tensors="pt", padding="longest", max_length=seq_len, truncation=True) for text in texts
        ]
        ids = [one.input_ids[0] for one in encoded]
        return ids, [one.input_ids.ne(slow.pad_token_id).sum().item() for one in encoded]

    inputs, _ = tokenise(wholes)
    _, prompt_lengths = tokenise(prompts)
    labels = copy.deepcopy(inputs)
    for label, length in zip(labels, prompt_lengths, strict=True):
        label[:length] = _IGNORED
    for first in range(0, len(inputs), _BATCH):
        for rows, padding in ((inputs, slow.pad_token_id), (labels, _IGNORED)):
            torch.nn.utils.rnn.pad_sequence(rows[first : first + _BATCH], batch_first=True, padding_value=padding)
    seconds = time.perf_counter() - start
    return f"{seconds} with " + ", ".join(f"{name} {version(name)}" for name in ("transformers", "sentencepiece"))


if __name__ == "__main__":
    run_program(main)
