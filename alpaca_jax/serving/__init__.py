"""Answers over HTTP: OpenAI's protocol, the web demo, limits, the content filter."""
