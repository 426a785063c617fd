"""LLaMA as Meta defines it, written out by hand: its files, and its forward pass with rotation as complex numbers.

Sizes: D width, H heads, K key-value heads, Q head dimension, V vocabulary, L tokens.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

# The axis along which model parallelism divides each matrix; what is not here every shard holds whole.
_AXES = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0, "output": 0}


def random_model(params: dict[str, Any], vocab_size: int, seed: int = 0) -> Tensors:
    """A model whose every parameter, norms included, is random, and whose logits are about as large as real ones."""
    width, hidden = params["dim"], intermediate_size(params)
    head_dim, kv_heads = width // params["n_heads"], params.get("n_kv_heads") or params["n_heads"]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings": (vocab_size, width), "norm": (width,)}
    for layer in range(params["n_layers"]):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "attention.wq": (width, width),
                "attention.wk": (kv_heads * head_dim, width),
                "attention.wv": (kv_heads * head_dim, width),
                "attention.wo": (width, width),
                "feed_forward.w1": (hidden, width),
                "feed_forward.w2": (width, hidden),
                "feed_forward.w3": (hidden, width),
                "attention_norm": (width,),
                "ffn_norm": (width,),
            }.items()
        }
    shapes["output"] = (vocab_size, width)
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": torch.rand(shape, generator=generator) + 0.5
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * shape[1] ** -0.5
        for name, shape in shapes.items()
    }


def intermediate_size(params: dict[str, Any]) -> int:
    """The width of the MLP."""
    hidden = int(2 * 4 * params["dim"] / 3)
    hidden = int(params.get("ffn_dim_multiplier", 1) * hidden)
    return params["multiple_of"] * math.ceil(hidden / params["multiple_of"])


def write(folder: Path, params: dict[str, Any], tensors: Tensors, shards: int = 1, embedding_axis: int = 1) -> Path:
    """Writes `params.json` and the shards; LLaMA 1 and 2 divide the embedding's width, LLaMA 3 its vocabulary."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(params))
    axes = _AXES | {"tok_embeddings": embedding_axis}
    for shard in range(shards):
        part = {}
        for name, tensor in tensors.items():
            axis = axes.get(name.split(".")[-2])
            part[name] = tensor if axis is None else tensor.chunk(shards, axis)[shard].clone()
        part["rope.freqs"] = torch.ones(4)
        torch.save(part, folder / f"consolidated.{shard:02}.pth")
    return folder


def logits(params: dict[str, Any], tensors: Tensors, tokens_L: torch.Tensor) -> torch.Tensor:
    """Logits [L, V] of the whole model, in float32."""
    head_dim = params["dim"] // params["n_heads"]
    turns = params.get("rope_theta", 10_000.0) ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    if params.get("use_scaled_rope"):
        turns = torch.tensor([_scaled(turn) for turn in turns.tolist()])
    angles_LQ = torch.outer(torch.arange(len(tokens_L)).float(), turns)
    rotation_LQ = torch.polar(torch.ones_like(angles_LQ), angles_LQ)
    x_LD = tensors["tok_embeddings.weight"][tokens_L]
    for layer in range(params["n_layers"]):
        own = {name.split(f"layers.{layer}.")[1]: t for name, t in tensors.items() if f"layers.{layer}." in name}
        x_LD = x_LD + _attention(params, own, _norm(x_LD, own["attention_norm.weight"], params), rotation_LQ)
        h_LD = _norm(x_LD, own["ffn_norm.weight"], params)
        gate = torch.nn.functional.silu(h_LD @ own["feed_forward.w1.weight"].T)
        x_LD = x_LD + gate * (h_LD @ own["feed_forward.w3.weight"].T) @ own["feed_forward.w2.weight"].T
    return _norm(x_LD, tensors["norm.weight"], params) @ tensors["output.weight"].T


def _attention(params: dict[str, Any], own: Tensors, x_LD: torch.Tensor, rotation_LQ: torch.Tensor) -> torch.Tensor:
    length, heads = len(x_LD), params["n_heads"]

    def project(name: str, rotate: bool) -> torch.Tensor:
        rows_LHQ = (x_LD @ own[f"attention.{name}.weight"].T).view(length, -1, x_LD.shape[1] // heads)
        if rotate:
            pairs = torch.view_as_complex(rows_LHQ.view(length, rows_LHQ.shape[1], -1, 2))
            rows_LHQ = torch.view_as_real(pairs * rotation_LQ[:, None]).flatten(2)
        return rows_LHQ.repeat_interleave(heads // rows_LHQ.shape[1], 1).transpose(0, 1)

    q_HLQ, k_HLQ, v_HLQ = project("wq", True), project("wk", True), project("wv", False)
    seen_HLQ = torch.nn.functional.scaled_dot_product_attention(q_HLQ, k_HLQ, v_HLQ, is_causal=True)
    return seen_HLQ.transpose(0, 1).reshape(length, -1) @ own["attention.wo.weight"].T


def _norm(x_LD: torch.Tensor, scale_D: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
    return x_LD * torch.rsqrt(x_LD.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * scale_D


def _scaled(turn: float) -> float:
    """LLaMA 3.1's frequency for one of 3's: factor 8, bounds 1 and 4, first trained to 8,192 positions."""
    wavelength = 2 * math.pi / turn
    if wavelength < 8192 / 4:
        return turn
    if wavelength > 8192:
        return turn / 8
    share = (8192 / wavelength - 1) / (4 - 1)
    return (1 - share) * turn / 8 + share * turn
