"""Every test runs on eight virtual CPU devices, with the shapes and types of the model's functions checked."""

import os

# Before JAX starts. Sharding is thus real in every test; no test chooses its devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

from jaxtyping import install_import_hook

# Before the modules are imported: their annotations become checks.
_CHECKED = ("model.rope", "model.attention", "model.cache", "model.llama", "training.loss", "generation.sampling")
install_import_hook([f"alpaca_jax.{name}" for name in _CHECKED], "beartype.beartype")
