"""What sends a run's numbers to Weights & Biases: a process of its own, started and ended by `wandb_sink.py`.

Standard input has a JSON object to a line: what `wandb.init` takes, then the numbers of one update after another, each
with its `step`. Standard output gets a byte for each update that was taken.
"""

import json
import os
import signal
import sys
import threading
import time

# When the run is over, or has died, wandb has this long to send what it still has.
SECONDS_TO_FINISH = 60


def main() -> None:
    """Sends what comes until there is no more."""
    taken = os.dup(1)
    os.dup2(2, 1)  # whatever wandb prints goes where errors go, which is a file
    options = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()

    import wandb

    run = wandb.init(**options)
    for line in sys.stdin:
        values = json.loads(line)
        run.log(values, step=values.pop("step"))
        os.write(taken, b".")
    signal.alarm(SECONDS_TO_FINISH)
    run.finish()


def _end_after(parent: int) -> None:
    """Ends this process some time after its parent: a wandb that hangs never comes to the end of standard input."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(SECONDS_TO_FINISH)
    os._exit(1)


if __name__ == "__main__":
    main()
