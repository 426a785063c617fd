"""New instructions from seeds and a model behind any server that speaks OpenAI's protocol."""
