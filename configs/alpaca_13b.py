"""alpaca_13b: the original Alpaca 13B: LLaMA 13B with the published hyper-parameters.

Paper     Taori et al. 2023, https://crfm.stanford.edu/2023/03/13/alpaca.html
Data      prepared with LLaMA's tokenizer: --seq_len=512; 32 packed rows of 512 hold about 128 examples
Weights   LLaMA 13B, brought in by `convert import`
Result    not yet run here
Hardware  the targets below; see the README's table for memory, time and cost by `plan`
Command   python -m alpaca_jax.train --config=configs/alpaca_13b.py:a100x8 --workdir=DIR
              --config.model.checkpoint=WEIGHTS --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "a100x8": {},
    "a100_40gb_x8": {"model.remat": "full"},  # with `dots`, jax 0.12 gathers weights a third time for want of memory
    "h100x8": {},
    "h200x8": {},
    "tpu_v4_32": {},
    "tpu_v5p_8": {},
}


def get_config(target: str = "a100x8"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "llama_13b"
    config.data.seq_len = 512
    config.train.batch_rows = 32
    config.train.epochs = 5.0
    config.optimizer.learning_rate = 1e-5
    config.checkpoint.every = 200
    return set_target(config, target, TARGETS)
