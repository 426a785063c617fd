"""A model small enough to compile in seconds, with fewer key-value heads than heads, as the real ones."""

from alpaca_jax.model.config import ModelConfig

SMALL = ModelConfig(
    vocab_size=2048,  # what the embedded tokenizer has
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)
