"""Fine-tuning: what one update does (`step.py`), and when things happen (`loop.py`)."""
