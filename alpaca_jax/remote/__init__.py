"""A server that speaks OpenAI's protocol, asked within its limits and a budget; every answer is kept on disk."""
