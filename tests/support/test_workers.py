import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from alpaca_jax.support.errors import UserError
from alpaca_jax.support.workers import ordered_map


def square(number):
    if number == 13:
        raise UserError("item 13", expected="another", found="it", remedy="leave it out")
    return number * number, os.getpid()


def end_abruptly(number):
    os.kill(os.getpid(), signal.SIGKILL)


def children():
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_one_item_needs_no_other_process():
    assert list(ordered_map(square, [("a", 3)])) == [("a", (9, os.getpid()))]
    assert list(ordered_map(square, [])) == []


def test_results_come_in_order_from_all_processes_and_few_items_are_taken_ahead():
    taken = []

    def items():
        for number in range(14, 200):
            taken.append(number)
            yield str(number), number

    found, most_ahead = [], 0
    for key, result in ordered_map(square, items()):
        found.append((key, result))
        most_ahead = max(most_ahead, len(taken) - len(found))
    assert [(key, result[0]) for key, result in found] == [(str(number), number**2) for number in range(14, 200)]
    assert os.getpid() in {process for _, (_, process) in found}
    assert most_ahead < 64
    assert children() == []


def test_an_error_comes_at_its_place_with_all_its_parts():
    results = ordered_map(square, [(number, number) for number in range(12, 90)])
    assert next(results)[1][0] == 144
    with pytest.raises(UserError) as error:
        next(results)
    assert (error.value.subject, error.value.found, error.value.remedy) == ("item 13", "it", "leave it out")
    assert children() == []


def test_a_killed_process_is_one_line():
    with pytest.raises(UserError, match="one was killed"):
        list(ordered_map(end_abruptly, [(None, 1), (None, 2)]))
    assert children() == []


def test_leaving_early_ends_the_processes():
    results = ordered_map(square, ((number, number) for number in range(14, 10**9)))
    next(results)
    assert children()
    results.close()
    assert children() == []


PROGRAM = """
import sys, time
from test_workers import slow
from alpaca_jax.support.program import run_program
from alpaca_jax.support.workers import ordered_map

def main():
    for _ in ordered_map(slow, ((number, number) for number in range(10**9))):
        print("working", flush=True)

if __name__ == "__main__":
    run_program(main)
"""


def slow(number):
    time.sleep(0.01)


@pytest.mark.parametrize("end", ["ctrl-c", "kill -9"])
def test_no_process_outlives_its_parent(tmp_path, end):
    (tmp_path / "program.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout.readline() == "working\n"
    family = psutil.Process(program.pid).children(recursive=True)
    assert len(family) >= 2
    if end == "ctrl-c":
        os.killpg(program.pid, signal.SIGINT)  # a terminal sends it to all
    else:
        program.kill()
    _, err = program.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    if end == "ctrl-c":
        assert (program.returncode, err) == (130, "interrupted\n")
    else:
        assert not re.search("Traceback", err)
