"""`evaluate annotate`: the web page on which people vote, and the export of their votes."""

import argparse
import os
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, require_extra
from alpaca_jax.support.progress import console

DESCRIPTION = """Serves a web page on which people compare the answers of a pair file, blind. Each gives a name, and
goes on at any time under the same name. Keys: 1 left, 2 right, 0 tie, u undo, c comment, p pause. Each vote is in the
SQLite file before the page shows the next pair. Without a key the page is for this machine alone; ALPACA_JAX_API_KEY in
the environment is the password that browsers must give, and lets --host be any address. With --export, the votes are
written in the form that `report` reads, and nothing is served.
"""


def add_flags(flags: Flags) -> None:
    """Adds the flags of `evaluate annotate`."""
    flags.add_argument("--pairs", metavar="FILE", type=Path, required=True, help="what `evaluate pair` wrote")
    flags.add_argument("--votes", metavar="FILE.sqlite", type=Path, required=True, help="votes; made where missing")
    flags.add_argument("--export", metavar="FILE.jsonl", type=Path, default=None, help="write the votes there, and end")
    flags.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen at (default %(default)s)")
    flags.add_argument("--port", metavar="N", type=int, default=8010, help="(default %(default)s; 0: any that is free)")


def run(values: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM, or exports.

    Raises:
      UserError: a pair file or votes that are none, or do not belong together; an address that cannot be had.
    """
    from alpaca_jax.evaluation.pairs import read_pairs
    from alpaca_jax.evaluation.votes import Votes

    pairs = read_pairs(values.pairs)
    if not pairs.pairs:
        raise UserError(str(values.pairs), expected="at least one pair", found="none", remedy="choose another file")
    if values.export:
        _export(values)
        return
    require_extra("evaluate annotate", "web", "fastapi", "uvicorn", "prometheus_client")

    from alpaca_jax.evaluation.annotate_app import create_app
    from alpaca_jax.serving.server import client_key, open_socket, url_of
    from alpaca_jax.serving.server import run as serve
    from alpaca_jax.serving.settings import Limits

    key = client_key(values.host, os.environ)
    with open_socket(values.host, values.port) as opened:
        votes = Votes(values.votes, pairs)
        limits = Limits(body_bytes=2**16)
        app = create_app(pairs, votes, limits, key=key, hosts=[values.host])
        address = f"{url_of(values.host, opened)}/"
        words = f"{len(pairs.pairs)} pairs, {len(votes.all())} votes so far; the page is at {address} (Ctrl-C ends it)"
        serve(app, opened, limits, lambda: console.print(words, markup=False))


def _export(values: argparse.Namespace) -> None:
    from alpaca_jax.evaluation.pairs import read_pairs
    from alpaca_jax.evaluation.votes import Votes, as_lines
    from alpaca_jax.support.files import write_json_lines_atomic

    if not values.votes.exists():
        remedy = "annotate first, or correct the name"
        raise UserError(str(values.votes), expected="an SQLite file with votes", found="no file", remedy=remedy)
    pairs = read_pairs(values.pairs)
    lines = as_lines(Votes(values.votes, pairs), values.pairs, pairs, values.export)
    write_json_lines_atomic(values.export, lines)
    annotators = len({line["annotator"] for line in lines})
    console.print(f"{len(lines)} votes of {annotators} annotators written to {values.export}", markup=False)
