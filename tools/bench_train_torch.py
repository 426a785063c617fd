"""The original recipe as a contestant of `tools/bench_train.py`, made again from its description.

Transformers' LlamaForCausalLM, rows padded to the longest of a batch, gradients added up over the batches of an update,
clipped, AdamW (fused, which is the fastest that torch has), weights and moments in float32, arithmetic in float32 or by
autocast to bfloat16. Needs torch and transformers, and nothing of this project's.
"""

import contextlib
from typing import Any

import torch
import transformers

from tools.bench_train_worker import IGNORED, examples_of, padded, read_rows, run_worker


def device() -> str:
    """Where torch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(job: dict[str, Any]) -> Any:
    """The model, its weights float32."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.config.use_cache = False
    return model.to(device()).train()


def make_optimiser(model: Any, job: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW with the job's values."""
    values = job["optimizer"]
    return torch.optim.AdamW(
        model.parameters(),
        lr=values["learning_rate"],
        betas=(values["b1"], values["b2"]),
        eps=values["eps"],
        weight_decay=values["weight_decay"],
        fused=True,
    )


def peak_bytes() -> int | None:
    """What torch has held of the GPU at most."""
    return torch.cuda.max_memory_allocated() if device() == "cuda" else None


class Recipe:
    """See `bench_train_worker.Contestant`."""

    def __init__(self, job: dict[str, Any]):
        self._rows = read_rows(job["rows"])
        self._model = load_model(job)
        self._optimiser = make_optimiser(self._model, job)
        self._clip_norm = job["optimizer"]["clip_norm"]
        self._batch = job["batch"]
        self._autocast = job["dtype"] == "bfloat16"
        self.facts = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}

    def update(self, number: int) -> float:
        """An update; where a batch does not fit into the GPU's memory, it and all later ones are half as large."""
        while True:
            try:
                return self._update(number)
            except torch.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                self._optimiser.zero_grad()
                torch.cuda.empty_cache()

    def _update(self, number: int) -> float:
        examples = examples_of(self._rows, number)
        trained = sum(int((labels != IGNORED).sum()) for _, labels in examples)
        total = torch.zeros((), device=device())
        for first in range(0, len(examples), self._batch):
            arrays = padded(examples[first : first + self._batch])
            tokens, labels, seen = (torch.from_numpy(array).to(device()) for array in arrays)
            cast = torch.autocast(device(), torch.bfloat16) if self._autocast else contextlib.nullcontext()
            with cast:
                # With the number of trained tokens transformers divides by that of the whole update.
                said = self._model(input_ids=tokens, attention_mask=seen, labels=labels, num_items_in_batch=trained)
            said.loss.backward()
            total += said.loss.detach()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if device() == "cuda":
            torch.cuda.synchronize()
        return total.item()

    def peak_bytes(self) -> int | None:
        """As torch counts it."""
        return peak_bytes()


if __name__ == "__main__":
    run_worker(Recipe)
