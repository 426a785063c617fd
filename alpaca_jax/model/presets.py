"""Models by name."""

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.program import refuse_unknown

PRESETS = {
    # Learns the embedded instructions by heart in about a minute on two cores.
    "tiny": ModelConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=384,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tied_embeddings=True,
    ),
    # HuggingFaceTB/SmolLM2-135M: a LLaMA in all but name, and small enough for a CPU.
    "smollm2_135m": ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
        tied_embeddings=True,
    ),
}


def preset(name: str) -> ModelConfig:
    """The model of that name.

    Raises:
      UserError: no such name; the nearest is given.
    """
    if name not in PRESETS:
        refuse_unknown(name, list(PRESETS), "config.model.preset")
    return PRESETS[name]
