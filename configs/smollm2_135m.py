"""smollm2_135m: SmolLM2-135M, a pretrained LLaMA small enough for a CPU, fine-tuned on instructions.

Data      any instruction file, prepared with the checkpoint's own tokenizer (`--tokenizer=BASE/tokenizer`)
Weights   `make smollm2` brings them in: --config.model.checkpoint=BASE
Hardware  target cpu: one device of all cores, since splitting a CPU only costs; targets gpu and tpu: all there are
Command   python -m alpaca_jax.train --config=configs/smollm2_135m.py:cpu --workdir=DIR
              --config.model.checkpoint=BASE --config.data.path=DATA --config.train.steps=40
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target


def get_config(target: str = "cpu"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "smollm2_135m"
    set_target(
        config,
        target,
        {"cpu": {"platform": "cpu", "cpu_devices": 1}, "gpu": {"platform": "gpu"}, "tpu": {"platform": "tpu"}},
    )

    config.train.batch_rows = 4 if target == "cpu" else 32  # of 512: about 18 examples on a CPU, the recipe's 128 else
    if target == "cpu":
        config.model.compute_dtype = "float32"  # what CPUs are fastest in
    config.optimizer.learning_rate = 1e-4  # a small model bears, and needs, more than a 7B
    config.evaluation.every = 20
    config.evaluation.rows = 16

    config.samples.instructions = (
        "Name the capital of France.",
        "Give three tips for staying healthy.",
        "Write a short poem about the sea.",
    )
    config.samples.max_new_tokens = 60
    return config
