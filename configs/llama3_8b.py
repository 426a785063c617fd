"""llama3_8b: Llama 3 8B fine-tuned on instructions.

Paper     Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783
Data      prepared with Llama 3's tokenizer: --seq_len=2048
Weights   Llama 3 8B, brought in by `convert import`
Result    not yet run here
Hardware  the targets below; see the README's table for memory, time and cost by `plan`
Command   python -m alpaca_jax.train --config=configs/llama3_8b.py:h100x8 --workdir=DIR
              --config.model.checkpoint=WEIGHTS --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "a100x8": {},
    "a100_40gb_x8": {"model.loss_chunk": 512},
    "h100x8": {},
    "h200x1": {"model.remat": "full", "train.microbatches": 2},
    "h200x8": {},
    "tpu_v5e_16": {"model.loss_chunk": 512},
    "tpu_v5p_8": {},
    "tpu_v6e_8": {"model.loss_chunk": 512},
}


def get_config(target: str = "h100x8"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "llama3_8b"
    config.data.seq_len = 2048
    config.train.batch_rows = 16
    config.train.epochs = 3.0
    config.optimizer.learning_rate = 1e-5  # half of Alpaca's: it has been trained for seven times as long
    config.checkpoint.every = 200
    return set_target(config, target, TARGETS)
