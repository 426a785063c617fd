"""llama2_7b: Llama 2 7B fine-tuned on instructions, with Alpaca's hyper-parameters.

Paper     Touvron et al. 2023, https://arxiv.org/abs/2307.09288
Data      prepared with Llama 2's tokenizer: --seq_len=2048
Weights   Llama 2 7B, brought in by `convert import`
Result    not yet run here
Hardware  the targets below; see the README's table for memory, time and cost by `plan`
Command   python -m alpaca_jax.train --config=configs/llama2_7b.py:a100x8 --workdir=DIR
              --config.model.checkpoint=WEIGHTS --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "a100x8": {},
    "a100_40gb_x8": {},
    "h100x8": {},
    "h200x1": {"model.remat": "full"},
    "h200x8": {},
    "tpu_v5e_16": {},
    "tpu_v5p_8": {},
    "tpu_v6e_8": {},
}


def get_config(target: str = "a100x8"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "llama2_7b"
    config.data.seq_len = 2048
    config.train.batch_rows = 16  # about 250 of Alpaca's examples
    config.train.epochs = 3.0
    config.optimizer.learning_rate = 2e-5
    config.checkpoint.every = 200
    return set_target(config, target, TARGETS)
