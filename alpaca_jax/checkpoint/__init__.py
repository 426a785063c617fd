"""Checkpoints: one layout for what the trainer saves and what `convert import` brings in."""
