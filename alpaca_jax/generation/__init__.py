"""Answers: prompts in, text out, with a key-value cache."""
