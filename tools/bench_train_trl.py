"""TRL as a contestant of `tools/bench_train.py`: its trainer's own step, its packing, its padding-free batches.

Each update's examples are packed by TRL (`bfd`: best fit, decreasing) into rows as long as ours, and each row
becomes one flat batch without padding, as its collator makes them. Where no flash attention is installed, as on a
CPU, transformers finds the examples in a flat batch by their positions and masks them from each other inside torch's
ordinary attention, whose cost grows with the square of the batch's length: hence a row at a time.

On a CPU, where memory is not short, gradient checkpointing is off; on a GPU it is as TRL has it. Needs trl and torch.
"""

# These packages are in an environment of their own.
# mypy: disable-error-code="import-not-found,import-untyped"

import tempfile
from typing import Any

import tokenizers
import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars

from tools.bench_train_torch import device, load_model, make_optimiser, peak_bytes
from tools.bench_train_worker import IGNORED, examples_of, read_rows, run_worker


class Trl:
    """See `bench_train_worker.Contestant`."""

    def __init__(self, job: dict[str, Any]):
        disable_progress_bars()
        self._rows = read_rows(job["rows"])
        self._length = job["seq_len"] + 1  # in our rows the last token of an example, only a target, takes no place
        vocabulary = tokenizers.models.WordLevel(
            {"[PAD]": 0}, "[PAD]"
        )  # nothing is tokenised; the trainer asks for one
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer(vocabulary), pad_token="[PAD]", eos_token="[PAD]"
        )
        on_cpu = device() == "cpu"
        arguments = trl.SFTConfig(
            output_dir=tempfile.mkdtemp(dir=job["scratch"]),
            packing=True,
            packing_strategy="bfd",
            max_length=self._length,
            per_device_train_batch_size=1,
            bf16=job["dtype"] == "bfloat16",
            use_cpu=on_cpu,
            report_to="none",
            dataset_kwargs={"skip_prepare_dataset": True},  # an update at a time is packed below
            **({"gradient_checkpointing": False} if on_cpu else {}),
        )
        model = load_model(job)
        self._trainer = trl.SFTTrainer(model, arguments, train_dataset=self._packed(0), processing_class=tokenizer)
        self._model, self._optimiser = self._trainer.accelerator.prepare(
            self._trainer.model, make_optimiser(model, job)
        )
        self._clip_norm = job["optimizer"]["clip_norm"]
        versions = {module.__name__: module.__version__ for module in (trl, transformers, torch)}
        self.facts = {"versions": versions, "attention": model.config._attn_implementation}

    def _packed(self, update: int) -> Dataset:
        examples = examples_of(self._rows, update)
        columns = {"input_ids": [ids for ids, _ in examples], "labels": [labels for _, labels in examples]}
        return trl.pack_dataset(Dataset.from_dict(columns), self._length, "bfd")

    def update(self, number: int) -> float:
        """The trainer's step for each row, then clipping and AdamW."""
        rows = self._packed(number)
        trained = torch.tensor(sum(label != IGNORED for labels in rows["labels"] for label in labels), device=device())
        total = torch.zeros((), device=device())
        for row in rows:
            batch = self._trainer.data_collator([row])
            total += self._trainer.training_step(self._model, batch, num_items_in_batch=trained)
        self._trainer.accelerator.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return total.item()

    def peak_bytes(self) -> int | None:
        """As torch counts it."""
        return peak_bytes()


if __name__ == "__main__":
    run_worker(Trl)
