"""Models by name, with the sizes that their makers published."""

from typing import Any

from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.rope_scaling import Llama3Scaling
from alpaca_jax.support.program import refuse_unknown


def _llama3_scaling(factor: float) -> Llama3Scaling:
    return Llama3Scaling(factor, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


_LLAMA3: dict[str, Any] = {"rope_theta": 5e5}
_LLAMA31 = _LLAMA3 | {"rope_scaling": _llama3_scaling(8.0)}
_LLAMA32 = _LLAMA3 | {"rope_scaling": _llama3_scaling(32.0), "tied_embeddings": True}
_QWEN25: dict[str, Any] = {"rope_theta": 1e6, "norm_eps": 1e-6, "qkv_bias": True}
_QWEN3: dict[str, Any] = {"rope_theta": 1e6, "norm_eps": 1e-6, "qk_norm": True}

# fmt: off
PRESETS = {
    #                           vocab  width  mlp layers heads kv dim context
    # Learns the embedded instructions by heart in about a minute on two cores.
    "tiny":         ModelConfig(  2048,  128,   384,  4,  4,  2,  32,   2048, tied_embeddings=True),
    # HuggingFaceTB/SmolLM2-135M: a LLaMA in all but name, and small enough for a CPU.
    "smollm2_135m": ModelConfig( 49152,  576,  1536, 30,  9,  3,  64,   8192, rope_theta=1e5, tied_embeddings=True),
    "llama_7b":     ModelConfig( 32000, 4096, 11008, 32, 32, 32, 128,   2048, norm_eps=1e-6),
    "llama_13b":    ModelConfig( 32000, 5120, 13824, 40, 40, 40, 128,   2048, norm_eps=1e-6),
    "llama_30b":    ModelConfig( 32000, 6656, 17920, 60, 52, 52, 128,   2048, norm_eps=1e-6),
    "llama_65b":    ModelConfig( 32000, 8192, 22016, 80, 64, 64, 128,   2048),
    "llama2_7b":    ModelConfig( 32000, 4096, 11008, 32, 32, 32, 128,   4096),
    "llama2_13b":   ModelConfig( 32000, 5120, 13824, 40, 40, 40, 128,   4096),
    "llama2_70b":   ModelConfig( 32000, 8192, 28672, 80, 64,  8, 128,   4096),
    "llama3_8b":    ModelConfig(128256, 4096, 14336, 32, 32,  8, 128,   8192, **_LLAMA3),
    "llama3_70b":   ModelConfig(128256, 8192, 28672, 80, 64,  8, 128,   8192, **_LLAMA3),
    "llama3.1_8b":  ModelConfig(128256, 4096, 14336, 32, 32,  8, 128, 131072, **_LLAMA31),
    "llama3.1_70b": ModelConfig(128256, 8192, 28672, 80, 64,  8, 128, 131072, **_LLAMA31),
    "llama3.2_1b":  ModelConfig(128256, 2048,  8192, 16, 32,  8,  64, 131072, **_LLAMA32),
    "llama3.2_3b":  ModelConfig(128256, 3072,  8192, 28, 24,  8, 128, 131072, **_LLAMA32),
    # Version 0.1; later ones have no window.
    "mistral_7b":   ModelConfig( 32000, 4096, 14336, 32, 32,  8, 128,  32768, sliding_window=4096),
    "qwen2.5_0.5b": ModelConfig(151936,  896,  4864, 24, 14,  2,  64,  32768, tied_embeddings=True, **_QWEN25),
    "qwen2.5_7b":   ModelConfig(152064, 3584, 18944, 28, 28,  4, 128, 131072, **_QWEN25),
    "qwen3_0.6b":   ModelConfig(151936, 1024,  3072, 28, 16,  8, 128,  40960, tied_embeddings=True, **_QWEN3),
    "qwen3_8b":     ModelConfig(151936, 4096, 12288, 36, 32,  8, 128,  40960, **_QWEN3),
}
# fmt: on


def preset(name: str) -> ModelConfig:
    """The model of that name.

    Raises:
      UserError: no such name; the nearest is given.
    """
    if name not in PRESETS:
        refuse_unknown(name, list(PRESETS), "config.model.preset")
    return PRESETS[name]
