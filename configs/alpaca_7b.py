"""alpaca_7b: the original Alpaca 7B: LLaMA 7B fine-tuned on 52K instructions with the published hyper-parameters.

Paper     Taori et al. 2023, https://crfm.stanford.edu/2023/03/13/alpaca.html
Data      prepared with LLaMA's tokenizer: --seq_len=512; 32 packed rows of 512 hold about 128 examples
Weights   LLaMA 7B, brought in by `convert import`
Result    not yet run here; the original's mean training loss was 0.7364 (a user's figure)
Hardware  the targets below; see the README's table for memory, time and cost by `plan`
Command   python -m alpaca_jax.train --config=configs/alpaca_7b.py:a100x8 --workdir=DIR
              --config.model.checkpoint=LLAMA --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "a100x8": {},
    "a100_40gb_x8": {},
    "h100x8": {},
    "h200x1": {"model.remat": "full"},
    "h200x8": {},
    "tpu_v4_32": {},
    "tpu_v5e_16": {},
    "tpu_v5p_8": {},
    "tpu_v6e_8": {},
}


def get_config(target: str = "a100x8"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "llama_7b"
    config.data.seq_len = 512
    config.train.batch_rows = 32
    config.train.epochs = 3.0
    config.optimizer.learning_rate = 2e-5
    config.checkpoint.every = 200  # of 1,218 updates; the original's 2,000 would never have saved
    return set_target(config, target, TARGETS)
