"""What `serve` does from its flags to its end."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from alpaca_jax.serving.moderation import make_filter
from alpaca_jax.serving.server import client_key, open_socket, run, url_of
from alpaca_jax.serving.settings import Limits
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.progress import console


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `serve`, which `--help` explains.

    Raises:
      UserError: a value out of range.
    """

    checkpoint: str
    compare: str | None
    host: str
    port: int
    moderation: str
    wordlist: Path | None
    moderation_base_url: str | None
    watermark_key: Path | None
    feedback: Path
    template: str | None
    dtype: str | None
    slots: int
    context: int | None
    queue: int
    max_tokens: int
    timeout: float

    def __post_init__(self) -> None:
        """Checks the numbers that no other part checks."""
        for name, least, most in (("slots", 1, 1024), ("context", 2, 10_000_000)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                expected = f"a whole number from {least} to {most:,}"
                raise UserError(f"--{name}", expected=expected, found=str(value), remedy="correct it")


def serve(options: Options, environment: Mapping[str, str]) -> None:
    """Checks everything that can be checked at once, loads the checkpoints, and serves until a signal ends it.

    Args:
      options: the flags.
      environment: where the keys stand: ALPACA_JAX_API_KEY for clients, OPENAI_API_KEY for the moderation service.

    Raises:
      UserError: whatever the user can mend.
    """
    key = client_key(options.host, environment)
    limits = Limits(queue=options.queue, max_tokens=options.max_tokens, timeout=options.timeout)
    filter = make_filter(options.moderation, environment, options.wordlist, options.moderation_base_url)
    with open_socket(options.host, options.port) as opened:
        # Not before the flags are checked: these bring JAX and the page's library.
        from alpaca_jax.checkpoint.folder import CheckpointFolder, template_to_use
        from alpaca_jax.generation.watermark_files import read_watermark
        from alpaca_jax.serving.app import create_app
        from alpaca_jax.serving.feedback import Feedback
        from alpaca_jax.serving.loading import load_models
        from alpaca_jax.serving.service import Service

        watermark = read_watermark(options.watermark_key) if options.watermark_key else None
        checkpoints = [options.checkpoint, *([options.compare] if options.compare else [])]
        for checkpoint in checkpoints:
            folder = CheckpointFolder.open(checkpoint)
            template_to_use(folder, options.template)
            folder.model.check_context(options.context)
        Feedback(options.feedback)  # made, or refused, before minutes are spent on the weights
        models = load_models(
            checkpoints,
            dtype=options.dtype,
            template=options.template,
            slots=options.slots,
            context=options.context,
            watermark=watermark,
        )
        service = Service(models, limits=limits, filter=filter)
        try:
            app = create_app(service, options.feedback, key=key, hosts=[options.host])
            words = f"{', '.join(service.models)}: {url_of(options.host, opened)} (Ctrl-C ends it)"
            run(app, opened, limits, lambda: console.print(words))
        finally:
            service.close()
