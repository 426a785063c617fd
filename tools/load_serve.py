"""Thousands of bad clients against a running `serve`, and what ordinary requests meanwhile get.

    python -m alpaca_jax.serve --checkpoint=DIR --port=8000 --max_tokens=256 &
    python tools/load_serve.py --port=8000 [--connections=10000] [--json]

A fifth of the connections each: says nothing; sends a head byte by byte; sends a body that never ends; sends noise;
asks for a long stream and does not read it (of these 16, since they are work for the model; the rest say nothing).
They stay, and come again some time after the server gives them up, so that there are more clients than connections; as
soon as so many connections are open at the same time, ordinary greedy requests go on one after another. All of these
must be answered with the text that the server gave before.
"""

import asyncio
import contextlib
import json
import random
import resource
import statistics
import time
from typing import Any

import httpx

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, print_json, run_program

_LONG_STREAMS = 16
_MOST_SECONDS = 120
_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_BODY = {"prompt": "The capital of Kenya is", "max_tokens": 16, "temperature": 0}


def main() -> None:
    """Parses the flags, opens the connections, and says how the ordinary requests fared."""
    flags = Flags(prog="python tools/load_serve.py", description=__doc__)
    flags.add_argument("--port", type=int, required=True, help="of the server, on this machine")
    flags.add_argument("--connections", type=int, default=10_000, help="bad ones (default %(default)s)")
    flags.add_argument("--requests", type=int, default=20, help="ordinary ones (default %(default)s)")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    values = flags.parse()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _clients(values.connections) + 200
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            "--connections", expected=f"room for {needed} open files", found=f"{hard}", remedy="ask for fewer"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    report = asyncio.run(_load(values.port, values.connections, values.requests))
    if values.json:
        print_json(report)
    else:
        print("\n".join(f"{name:<24} {value}" for name, value in report.items()))


def _clients(connections: int) -> int:
    """How many clients have so many connections open, while others wait to come again."""
    return connections * 3 // 2


async def _load(port: int, connections: int, requests: int) -> dict[str, Any]:
    before, texts, _ = await _ordinary(port, requests)
    (text,) = set(texts)
    opened = {"open": 0, "opened": 0}
    clients = [asyncio.create_task(_bad_client(number, port, opened)) for number in range(_clients(connections))]
    start = time.monotonic()
    while opened["open"] < connections:
        if time.monotonic() - start > _MOST_SECONDS:
            raise UserError(
                "--connections",
                expected=f"{connections} open at the same time within {_MOST_SECONDS} s",
                found=f"{opened['open']}",
                remedy="ask for fewer, or raise the server's limit of open files",
            )
        await asyncio.sleep(0.2)
    counts = [opened["open"]]
    watch = asyncio.create_task(_watch(opened, counts))
    during, answers, refused = await _ordinary(port, requests)
    watch.cancel()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    after, later, _ = await _ordinary(port, requests)
    return {
        "clients": len(clients),
        "open at the same time": f"{min(counts):,} to {max(counts):,}, median {statistics.median(counts):,.0f}",
        "opened in all": opened["opened"],
        "ordinary requests": requests,
        "answered": len(answers),
        "told to come again": refused,
        "answered otherwise": sum(each != text for each in [*answers, *later]),
        "median seconds before": round(statistics.median(before), 3),
        "median seconds during": round(statistics.median(during), 3),
        "longest seconds during": round(max(during), 3),
        "median seconds after": round(statistics.median(after), 3),
    }


async def _watch(opened: dict[str, int], counts: list[int]) -> None:
    while True:
        counts.append(opened["open"])
        await asyncio.sleep(0.1)


async def _ordinary(port: int, count: int) -> tuple[list[float], list[str], int]:
    """Seconds and texts of requests one after another, and how often one had to be sent again."""
    seconds, texts, refused = list[float](), list[str](), 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        while len(texts) < count:
            start = time.monotonic()
            answer = await client.post("/v1/completions", json=_BODY)
            if answer.status_code == 429:
                refused += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
                continue
            answer.raise_for_status()
            seconds.append(time.monotonic() - start)
            texts.append(answer.json()["choices"][0]["text"])
    return seconds, texts, refused


async def _bad_client(number: int, port: int, opened: dict[str, int]) -> None:
    """One connection that comes again whenever it is closed."""
    rng = random.Random(number)
    await asyncio.sleep(5 * rng.random())
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            opened["opened"] += 1
            opened["open"] += 1
            try:
                await _misbehave(number, rng, reader, writer)
            finally:
                opened["open"] -= 1
                writer.transport.abort()
        await asyncio.sleep(5 * rng.random())


async def _misbehave(
    number: int, rng: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    kind = number % 5
    if kind == 1:
        for byte in _HEAD * 10:
            writer.write(bytes([byte]))
            await writer.drain()
            if reader.at_eof():
                return
            await asyncio.sleep(1)
    elif kind == 2:
        writer.write(_HEAD + b"Content-Length: 100000\r\n\r\n" + b'{"prompt": "' + rng.randbytes(9).hex().encode())
    elif kind == 3:
        writer.write(rng.choice([_HEAD, b"", b"\x16\x03\x01"]) + rng.randbytes(rng.randrange(3_000)) + b"\r\n\r\n")
    elif kind == 4 and number < 5 * _LONG_STREAMS:
        body = json.dumps(_BODY | {"max_tokens": 200, "stream": True}).encode()
        writer.write(_HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(60)
        return
    while await reader.read(4096):
        pass


if __name__ == "__main__":
    run_program(main)
