"""Foresees a run on chips that are not here: what fits, how long it takes, what it costs."""
