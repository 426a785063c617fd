"""`python -m alpaca_jax.train`: fine-tunes a LLaMA; run again, it goes on where it stopped."""

import sys
from pathlib import Path

from alpaca_jax.support.program import Flags, run_program
from alpaca_jax.training.command_line import split_config_flags

_DESCRIPTION = """\
Fine-tunes a LLaMA on instructions; run again with the same --workdir, it goes on where it stopped.

  python -m alpaca_jax.train --config=configs/alpaca_7b.py:a100x8 --workdir=runs/mine --config.data.path=DATA \\
      --config.model.checkpoint=WEIGHTS --config.train.steps=20

DATA is a folder that `prepare` wrote, WEIGHTS one of `convert import`; steps stops early. TARGET is the machine, one of
those that FILE lists under TARGETS. Every key is described in alpaca_jax/training/config.py.

The work directory holds metrics.jsonl (an object an update), tensorboard/, loss.png, checkpoints/ and run.json; a
program that takes --checkpoint=DIR takes it, or DIR/best, or DIR/200.
SIGTERM (the notice before a preemption) and Ctrl-C finish the update, save, and end with the code 75 and 130; the same
command goes on from there. Ctrl-C twice stops at once.
"""


def main() -> None:
    """Parses the flags and trains."""
    arguments, config_flags = split_config_flags(sys.argv[1:])
    flags = Flags(prog="python -m alpaca_jax.train", description=_DESCRIPTION)
    flags.add_argument(
        "--config", required=True, metavar="FILE[:TARGET]", help="a configuration, and the machine it is for"
    )
    flags.add_argument("--config.SECTION.KEY", metavar="VALUE", help="changes one value of the configuration")
    flags.add_argument("--workdir", required=True, metavar="DIR", help="where everything goes")
    values = flags.parse(arguments)

    from alpaca_jax.training.clock import Clock

    clock = Clock()

    from alpaca_jax.parallel.compiler_options import set_environment
    from alpaca_jax.parallel.processes import joined

    set_environment()
    with joined():
        from alpaca_jax.training.command_line import read_config

        config = read_config(values.config, config_flags)

        from alpaca_jax.training.loop import train
        from alpaca_jax.training.preemption import StopRequests
        from alpaca_jax.training.run import prepare_run

        with StopRequests() as stops:
            train(prepare_run(config, Path(values.workdir)), clock, stops)


if __name__ == "__main__":
    run_program(main)
