"""What sends a run's numbers to Weights & Biases: a process of its own, started and ended by `wandb_sink.py`.

Standard input has a JSON object to a line: what `wandb.init` takes, then the numbers of one update after another, each
with its `step`. Standard output gets a byte for each update that was taken.
"""

import json
import os
import signal
import sys

# When the run is over, or has died, wandb has this long to send what it still has.
SECONDS_TO_FINISH = 60


def main() -> None:
    """Sends what comes until there is no more."""
    taken = os.dup(1)
    os.dup2(2, 1)  # whatever wandb prints goes where errors go, which is a file
    options = json.loads(sys.stdin.readline())

    import wandb

    run = wandb.init(**options)
    for line in sys.stdin:
        values = json.loads(line)
        run.log(values, step=values.pop("step"))
        os.write(taken, b".")
    signal.alarm(SECONDS_TO_FINISH)
    run.finish()


if __name__ == "__main__":
    main()
