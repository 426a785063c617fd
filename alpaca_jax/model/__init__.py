"""The LLaMA: tokens to hidden states, layers stacked and scanned, with or without a key-value cache."""
