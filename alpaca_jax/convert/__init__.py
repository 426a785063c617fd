"""Weights from elsewhere: every source is read under Hugging Face's names, and one table leads from those to ours."""
