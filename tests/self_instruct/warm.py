"""All that a run of the program imports, some of it at the first request: processes forked after this begin at once."""

import asyncio
import importlib

import openai

# The program imports these where they are used.
for name in ("aiolimiter", "tenacity", "rapidfuzz.process", "rapidfuzz.distance", "alpaca_jax.self_instruct.run"):
    importlib.import_module(name)
for name in ("alpaca_jax.selfinstruct", "alpaca_jax.self_instruct.pipeline", "tests.programs"):
    importlib.import_module(name)


async def _ask_nobody() -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1:9/v1", max_retries=0) as client:
        try:
            await client.chat.completions.with_raw_response.create(model="m", messages=[])
        except openai.APIConnectionError:
            return


asyncio.run(_ask_nobody())
