"""Answers over HTTP, as OpenAI's clients expect them, and a web page for people at `/`.

/v1/models, /v1/completions and /v1/chat/completions with streaming; /healthz, and /metrics for Prometheus. Without a
key the server is for this machine alone; ALPACA_JAX_API_KEY in the environment is the key that clients must have, and
lets --host be any address. Ctrl-C or SIGTERM ends it when the answers under way are finished.
"""

import dataclasses
import os
from pathlib import Path

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import Flags, require_extra, run_program

_EXAMPLE = """
example: … --checkpoint=runs/alpaca --compare=runs/base --moderation=wordlist --wordlist=words.txt
"""


def _flags() -> Flags:
    flags = Flags(
        prog="python -m alpaca_jax.serve",
        usage="%(prog)s --checkpoint=DIR [flags]",
        description=__doc__,
        epilog=_EXAMPLE,
    )
    add = flags.add_argument
    add(
        "--checkpoint",
        metavar="DIR",
        help="what `convert import` wrote, or a work directory of `train` (or DIR/best, DIR/200)",
    )
    add("--compare", metavar="DIR", help="a second one, answering beside it on the web page")
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen at (default %(default)s)")
    add("--port", metavar="N", type=int, default=8000, help="(default %(default)s; 0: any that is free)")
    add(
        "--moderation",
        metavar="KIND",
        choices=("none", "openai", "wordlist", "both"),
        default="none",
        help="filter of prompts and answers: none (default), openai (a service), wordlist, both",
    )
    add("--wordlist", metavar="FILE", type=Path, help="what must not be said: a word, phrase or /expression/ a line")
    add("--moderation_base_url", metavar="URL", help="the service, up to /v1 (default: OPENAI_BASE_URL, else OpenAI's)")
    add("--watermark_key", metavar="FILE", type=Path, help="mark the answers with the key that `watermark key` made")
    add(
        "--feedback", metavar="FILE", type=Path, default=Path("feedback.sqlite"), help="flags and votes of the web page"
    )
    add("--export_feedback", metavar="OUT.jsonl", type=Path, help="write those of --feedback there, and end")
    add("--template", metavar="NAME", help="of prompts (default: the checkpoint's own; if it has none, alpaca)")
    add("--dtype", choices=("float32", "bfloat16", "int8"), help="of the weights (default bfloat16, on a CPU float32)")
    add("--slots", metavar="N", type=int, default=8, help="answers made at the same time (default %(default)s)")
    add("--context", metavar="N", type=int, help="longest prompt and answer, in tokens (default: the model's)")
    add("--queue", metavar="N", type=int, default=128, help="answers that may wait; further ones: 429 (%(default)s)")
    add("--max_tokens", metavar="N", type=int, default=4096, help="the longest answer (default %(default)s)")
    add("--timeout", metavar="SECONDS", type=float, default=300.0, help="for one request (default %(default)s)")
    return flags


def main() -> None:
    """Parses the flags, checks what can be checked, loads the checkpoints and serves them."""
    values = _flags().parse()
    if values.export_feedback:
        from alpaca_jax.serving.feedback import export_feedback

        count = export_feedback(values.feedback, values.export_feedback)
        print(f"{values.export_feedback}: {count} flags and votes")
        return
    if not values.checkpoint:
        raise UserError("--checkpoint", expected="a folder", found="none", remedy="name what is to answer")
    require_extra("serve", "web", "fastapi", "uvicorn", "gradio", "prometheus_client", "regex")

    from alpaca_jax.serving.startup import Options, serve

    given = vars(values)
    serve(Options(**{field.name: given[field.name] for field in dataclasses.fields(Options)}), os.environ)


if __name__ == "__main__":
    run_program(main)
