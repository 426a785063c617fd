"""What the tests of several processes run in each of them: `python -m tests.parallel.together CASE`."""

import os
import sys
import time

from alpaca_jax.parallel.processes import joined, require_agreement
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.program import run_program

# Longer than any test waits: a process that is not ended by the others fails it.
_FOREVER = 600


def main() -> None:
    case, index = sys.argv[1], int(os.environ["JAX_PROCESS_ID"])
    with joined():
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 2)
        if case == "before the devices":
            if index == 1:
                raise UserError("the flag", expected="a", found="b", remedy="give a")
            jax.devices()  # waits for those of process 1
        elif case == "in a computation":
            mesh = jax.make_mesh((4,), ("all",))
            total = jax.jit(lambda x: x.sum())
            ones = jax.device_put(jax.numpy.ones(4), jax.NamedSharding(mesh, jax.P("all")))
            assert total(ones) == 4
            if index == 0:
                raise ValueError("a bug")
            print(total(ones))  # waits for what process 0 does not add
        elif case == "all alike":
            raise UserError("the flag", expected="a", found="b", remedy="give a")
        elif case == "another value":
            require_agreement("the data", "this" if index == 0 else "that", "give them the same")
        time.sleep(_FOREVER)


if __name__ == "__main__":
    run_program(main)
