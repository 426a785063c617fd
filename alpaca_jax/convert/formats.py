"""Which format a path holds."""

from pathlib import Path

from alpaca_jax.checkpoint.folder import is_checkpoint
from alpaca_jax.convert.checkpoint_source import CheckpointSource
from alpaca_jax.convert.diff_manifest import MANIFEST
from alpaca_jax.convert.gguf_file import GGUFFile
from alpaca_jax.convert.huggingface import HuggingFaceFolder
from alpaca_jax.convert.meta import MetaFolder
from alpaca_jax.convert.source import Source
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors


def open_source(path: str | Path) -> Source:
    """Opens what lies at `path` after a look at what it is.

    Raises:
      UserError: nothing is there, or nothing that can be read.
    """
    path = Path(path)
    with explain_os_errors(path):
        if not path.exists() and not is_checkpoint(path):
            raise _not_a_source(path, "nothing there", "check the path")
        if not path.is_file():
            return _open_folder(path)
        with open(path, "rb") as file:
            magic = file.read(4)
    if magic == b"GGUF":
        return GGUFFile(path)
    if path.suffix in (".safetensors", ".bin", ".pth", ".json"):
        raise _not_a_source(path, f"one {path.suffix} file", f"give the folder that holds it, {path.resolve().parent}")
    raise _not_a_source(path, "a file of another kind", "check the path; a GGUF file must be whole")


def _open_folder(folder: Path) -> Source:
    if (folder / MANIFEST).is_file():
        raise _not_a_source(folder, "a weight diff", "make the model of it and its base with `convert recover`")
    if (folder / "config.json").is_file():
        return HuggingFaceFolder(folder)
    if is_checkpoint(folder):
        return CheckpointSource(folder)
    if (folder / "params.json").is_file() or any(folder.glob("consolidated.*.pth")):
        return MetaFolder(folder)
    if ggufs := sorted(folder.glob("*.gguf")):
        raise _not_a_source(folder, "a folder with none of these", f"give the file itself, {ggufs[0]}")
    raise _not_a_source(folder, "a folder with none of these", "check the path")


def _not_a_source(path: Path, found: str, remedy: str) -> UserError:
    expected = "a Hugging Face folder (config.json), a Meta folder (params.json), a .gguf file or a checkpoint"
    return UserError(str(path), expected=expected, found=found, remedy=remedy)
