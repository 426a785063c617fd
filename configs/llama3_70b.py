"""llama3_70b: Llama 3 70B fine-tuned on instructions, on fsdp × tensor.

Paper     Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783
Data      prepared with Llama 3's tokenizer: --seq_len=2048
Weights   Llama 3 70B, brought in by `convert import`
Result    not yet run here
Hardware  the targets below; see the README's table for memory, time and cost by `plan`
Command   python -m alpaca_jax.train --config=configs/llama3_70b.py:h100x32 --workdir=DIR
              --config.model.checkpoint=WEIGHTS --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "h100x32": {"mesh.tensor": 2},
    "h200x16": {"train.microbatches": 2, "mesh.tensor": 2},
    "tpu_v5p_64": {"mesh.tensor": 4},
}


def get_config(target: str = "h100x32"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "llama3_70b"
    config.data.seq_len = 2048
    config.train.batch_rows = 32
    config.train.epochs = 3.0
    config.optimizer.learning_rate = 5e-6
    config.checkpoint.every = 100
    config.checkpoint.keep = 1  # a save holds 850 GB
    return set_target(config, target, TARGETS)
