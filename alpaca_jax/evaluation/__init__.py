"""Answers compared: blind pairs, votes of people and of models, and what they amount to."""
