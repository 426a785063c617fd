"""smollm2_135m: SmolLM2-135M, a pretrained LLaMA small enough for a CPU, fine-tuned on instructions.

Data      any instruction file, prepared with the checkpoint's own tokenizer (`--tokenizer=BASE/tokenizer`)
Weights   `make smollm2` brings them in: --config.model.checkpoint=BASE
Hardware  target cpu: one device of all cores, since splitting a CPU only costs; h200x1 and the others: one chip is
          plenty; gpu and tpu: whatever there is
Command   python -m alpaca_jax.train --config=configs/smollm2_135m.py:cpu --workdir=DIR
              --config.model.checkpoint=BASE --config.data.path=DATA --config.train.steps=40
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    "cpu": {
        "mesh.cpu_devices": 1,
        "train.batch_rows": 4,  # of 512: about 18 examples
        # What CPUs are fastest in: bfloat16 for what is multiplied, float32 for all else.
        "model.compute_dtype": "float32",
        "model.matmul_precision": "BF16_BF16_F32",
        "checkpoint.every": 250,  # a save takes two cores 8 s, an update 4
    },
    "gpu": {},
    "tpu": {},
    "h200x1": {},
    "a100x8": {"mesh.data": 8, "mesh.fsdp": 1},
}


def get_config(target: str = "cpu"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "smollm2_135m"
    config.data.seq_len = 512
    config.optimizer.learning_rate = 1e-4  # a small model bears, and needs, more than a 7B
    config.evaluation.every = 20
    config.evaluation.rows = 16
    config.samples.instructions = (
        "Name the capital of France.",
        "Give three tips for staying healthy.",
        "Write a short poem about the sea.",
    )
    config.samples.max_new_tokens = 60
    return set_target(config, target, TARGETS)
