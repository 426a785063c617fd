"""Fine-tune a LLaMA on instructions: data, weights, training, answers, on GPUs and TPUs."""

__version__ = "0.1.0"
