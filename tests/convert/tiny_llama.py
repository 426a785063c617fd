"""A tiny LLaMA's description and tensors in Hugging Face's names and layouts, written out by hand."""

from typing import Any

import numpy as np
import tokenizers

# Every size differs from every other, so that nothing can be mistaken for anything else.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 261,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def random_tensors(dtype: Any) -> dict[str, np.ndarray]:
    """The tensors of CONFIG, written out by hand."""
    shapes = {"model.embed_tokens.weight": (261, 40), "model.norm.weight": (40,), "lm_head.weight": (261, 40)}
    for layer in range(3):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (40,),
                "self_attn.q_proj": (48, 40),
                "self_attn.k_proj": (16, 40),
                "self_attn.v_proj": (16, 40),
                "self_attn.o_proj": (40, 48),
                "post_attention_layernorm": (40,),
                "mlp.gate_proj": (56, 40),
                "mlp.up_proj": (56, 40),
                "mlp.down_proj": (40, 56),
            }.items()
        }
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def byte_tokens() -> list[str]:
    """256 bytes as byte-level BPE writes them, with a beginning and an end."""
    return [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>"]
