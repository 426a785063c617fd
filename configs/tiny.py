"""tiny: a 1 M parameter LLaMA learns the embedded instructions by heart; what `make quickstart` runs.

Data      alpaca_jax/data/embedded/seed_tasks.jsonl: 175 instructions, rows of 512
Result    loss below 0.1 on its own data, all five sample answers right
Hardware  2 CPU cores as 8 virtual devices, fsdp 4 × tensor 2
Command   make quickstart, or
          python -m alpaca_jax.train --config=configs/tiny.py:cpu --workdir=runs/tiny --config.data.path=DATA
"""

from alpaca_jax.training.config import default_config
from alpaca_jax.training.targets import set_target

TARGETS: dict[str, dict] = {
    # In bfloat16, which a CPU converts from and to, it would compile and learn more slowly.
    "cpu": {"mesh.cpu_devices": 8, "mesh.fsdp": 4, "mesh.tensor": 2, "model.compute_dtype": "float32"}
}


def get_config(target: str = "cpu"):
    """The configuration for a target."""
    config = default_config()
    config.model.preset = "tiny"
    config.train.batch_rows = 4
    config.train.epochs = 20.0
    config.optimizer.learning_rate = 3e-3  # a model from random numbers takes a hundred times what fine-tuning does
    config.optimizer.b2 = 0.98  # forgets in 50 updates, as there are only some 200
    config.optimizer.warmup_fraction = 0.05

    config.samples.instructions = (
        "Which ocean washes the shores of Kenya, Tanzania and Mozambique?",
        "Who painted Guernica?",
        "Which metal has the chemical symbol W?",
        "What city is the capital of Mongolia?",
        "How many degrees do the interior angles of a hexagon add up to?",
    )
    config.samples.max_new_tokens = 24
    config.samples.every = 75
    return set_target(config, target, TARGETS)
