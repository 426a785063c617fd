"""From instruction files to batches: read, prompt, tokens, pack, records, batches. Nothing here imports jax."""
