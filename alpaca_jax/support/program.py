"""How a program starts and ends: flags, one line for an error, JSON last on standard output."""

import argparse
import difflib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from alpaca_jax.support.errors import Stopped, UserError, shorten

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# What sysexits.h calls EX_TEMPFAIL: all is saved, and the same command goes on. The files in launch/ start it again.
EXIT_START_AGAIN = 75

# Where Linux, containers and WSL show that there is a GPU; JAX looks at the same.
_NVIDIA_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Lines long enough for most flags to be explained on one, so that all of a program's fit a screen."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=120)


class Flags(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the nearest valid flag."""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage; `run_program` prints the line."""
        raise UserError(
            self.prog, expected="flags that --help describes", found=message, remedy=f"see `{self.prog} --help`"
        )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The flags' values.

        Raises:
          UserError: an unknown flag (with the nearest known one), a missing one, or a value of the wrong type.
        """
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        known = [option for action in self._actions for option in action.option_strings]
        # First of all: argparse would call a misspelt flag missing.
        for argument in arguments:
            if argument.startswith("--") and argument.split("=")[0] not in known:
                refuse_unknown(argument.split("=")[0], known, self.prog)
        values, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"{shorten(unknown[0])} without a flag")
        return values


def refuse_unknown(name: str, known: Sequence[str], subject: str) -> NoReturn:
    """Raises a `UserError` for a name that is not among the known ones, with the nearest of them."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}" if nearest else f"valid are {', '.join(known)}"
    raise UserError(subject, expected="a known name", found=repr(name), remedy=remedy)


def require_extra(subject: str, extra: str, *packages: str) -> None:
    """Refuses to begin where an extra of this project is not installed.

    Args:
      subject: what cannot do without it.
      extra: its name.
      packages: what it brings, as it is imported.

    Raises:
      UserError: one of them is not there.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        found, remedy = f"no {missing[0]}", f"install alpaca-jax[{extra}]"
        raise UserError(subject, expected=f"the extra `{extra}`", found=found, remedy=remedy)


Command: TypeAlias = Callable[[Sequence[str]], int | None]


def run_command(program: str, description: str, commands: Mapping[str, Command]) -> int | None:
    """Runs the command of a program that its first argument names; `--help` in its place lists them.

    Args:
      program: how it is called.
      description: what it says of itself.
      commands: by name; each takes the arguments after its name and gives an exit code.

    Raises:
      UserError: no such command (with the nearest), or a flag before it.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-"):
        flags = Flags(prog=program, description=description)
        flags.add_argument("command", choices=list(commands), metavar="COMMAND", help=", ".join(commands))
        flags.parse(arguments)
    command, *rest = arguments
    if command not in commands:
        refuse_unknown(command, list(commands), program)
    return commands[command](rest)


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Runs a program to its exit code: 0, or 2 after one line on standard error for what the user can mend."""
    if not any(Path(device).exists() for device in _NVIDIA_DEVICES):
        # The extra `plan` brings JAX's plugin for NVIDIA, which would look for a driver and print that there is none.
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        code = main() or 0
        sys.stdout.flush()
    except (UserError, Stopped, KeyboardInterrupt) as error:
        code, words = last_words(error)
        sys.stderr.write(words)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left; there is nobody to tell
        code = 1
    sys.exit(code)


def last_words(error: BaseException) -> tuple[int, str]:
    """The exit code of a program that ends with this error, and what it writes on standard error."""
    if isinstance(error, UserError):
        return EXIT_USER_ERROR, f"error: {error}\n"
    if isinstance(error, Stopped):
        return error.code, f"{error}\n"
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted\n"
    return 1, "".join(traceback.format_exception(error))


def print_json(value: object) -> None:
    """Prints one JSON object as the last thing on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
