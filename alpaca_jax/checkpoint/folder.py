"""The layout of a checkpoint folder, the same whether a training run or `convert import` wrote it.

    FOLDER/
      model.json      what the model is and where it comes from; written last, so a folder without it is not complete
      tokenizer/      the tokenizer's own files
      0/, 40/, …      one folder a saved step, by Orbax (see `store.py`)

A work directory of the trainer holds such a folder under `checkpoints/`. Wherever a program takes either of them,
`/best` or the number of a step after it chooses that step, as in `RUN/best`; without, it is the newest.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_jax.data.prompt import DEFAULT_TEMPLATE, Template, check_template, template_named
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.support.errors import UserError
from alpaca_jax.support.files import explain_os_errors, new_folder, read_json, write_json_atomic

if TYPE_CHECKING:
    from alpaca_jax.data.tokenizer import Tokenizer

_FORMAT = 1
_DESCRIPTION = "model.json"
_TOKENIZER = "tokenizer"
NEWEST, BEST = "newest", "best"


@dataclasses.dataclass(frozen=True)
class CheckpointFolder:
    """A complete checkpoint folder: its model, its tokenizer's hash, and its prompt template.

    Attributes:
      path: the folder that holds `model.json`.
      model: the sizes of the model.
      tokenizer_sha256: of the tokenizer that the model was trained with.
      template: the prompt template that it was fine-tuned with; None for a model that was not, here.
      provenance: where the weights come from, as JSON.
      step: which of its steps is meant: `newest`, `best` (the lowest held-out loss) or a number; see `Store.find`.
    """

    path: Path
    model: ModelConfig
    tokenizer_sha256: str
    template: Template | None
    provenance: dict[str, Any]
    step: str = NEWEST

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: ModelConfig,
        tokenizer: "Tokenizer",
        *,
        provenance: dict[str, Any],
        template: Template | None,
    ) -> "CheckpointFolder":
        """Writes the folder's description; the steps are added by `store.Store`.

        Raises:
          UserError: the folder cannot be written, or the tokenizer has more ids than the model.
        """
        path = Path(path)
        check_vocabulary(model, tokenizer, str(path))
        folder = cls(path, model, tokenizer.sha256, template, provenance)
        with explain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        # A run that was killed before its description was written leaves a tokenizer behind; it is written anew.
        shutil.rmtree(path / _TOKENIZER, ignore_errors=True)
        with new_folder(path / _TOKENIZER) as unfinished:
            tokenizer.save(unfinished)
        description = {
            "format": _FORMAT,
            "model": model.to_json(),
            "tokenizer_sha256": tokenizer.sha256,
            "template": template.name if template else None,
            "template_sha256": template.sha256 if template else None,
            "provenance": provenance,
        }
        write_json_atomic(path / _DESCRIPTION, description)
        return folder

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether `path` itself is a complete checkpoint folder."""
        return (Path(path) / _DESCRIPTION).is_file()

    @classmethod
    def open(cls, path: str | Path) -> "CheckpointFolder":
        """The folder at `path`, or the one in the work directory at `path`; a last part of `path` may name a step.

        Raises:
          UserError: there is none, or it was written by another version or for another prompt template.
        """
        folder, step = _folder_and_step(Path(path))
        if folder is None:
            found = "no such folder" if not Path(path).exists() else f"no {_DESCRIPTION} in it"
            raise UserError(
                str(path),
                expected="what `convert import` wrote, or a work directory of `train`",
                found=found,
                remedy="check the path",
            )
        source = folder / _DESCRIPTION
        value = read_json(source)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            found = repr(value.get("format") if isinstance(value, dict) else type(value).__name__)
            raise UserError(
                str(source),
                expected=f"a checkpoint of format {_FORMAT}",
                found=found,
                remedy="convert or train it again",
            )
        try:
            return cls(
                folder,
                ModelConfig.from_json(value["model"], str(source)),
                value["tokenizer_sha256"],
                _template(value, str(source)),
                value["provenance"],
                step,
            )
        except KeyError as error:
            raise UserError(
                str(source), expected=f"the key {error}", found="none", remedy="convert or train it again"
            ) from error

    def tokenizer(self) -> "Tokenizer":
        """The folder's tokenizer.

        Raises:
          UserError: its files are damaged, or not those that the model was trained with.
        """
        from alpaca_jax.data.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(self.path / _TOKENIZER)
        if tokenizer.sha256 != self.tokenizer_sha256:
            raise UserError(
                str(self.path / _TOKENIZER),
                expected=f"the tokenizer with SHA-256 {self.tokenizer_sha256[:12]}",
                found=tokenizer.sha256[:12],
                remedy="restore the folder's own tokenizer files",
            )
        return tokenizer


def is_checkpoint(path: str | Path) -> bool:
    """Whether `CheckpointFolder.open` finds a folder at this path."""
    return _folder_and_step(Path(path))[0] is not None


def _folder_and_step(path: Path) -> tuple[Path | None, str]:
    """The complete checkpoint folder that a path stands for, if any, and which of its steps."""
    for folder in (path, path / "checkpoints"):
        if CheckpointFolder.exists(folder):
            return folder, NEWEST
    if path.name == BEST or path.name.isdecimal():
        for folder in (path.parent, path.parent / "checkpoints"):
            if CheckpointFolder.exists(folder):
                return folder, path.name
    return None, NEWEST


def _template(description: dict[str, Any], source: str) -> Template | None:
    """The template that `model.json` names; before there were several it named none, and only Alpaca's hash."""
    if description["template_sha256"] is None:
        return None
    name = description.get("template", DEFAULT_TEMPLATE)
    return check_template(name, description["template_sha256"], source, "use the version that trained it")


def template_to_use(folder: CheckpointFolder, asked: str | None) -> Template:
    """The prompt template to speak to a checkpoint with: its own; for a model not fine-tuned here, the one asked for.

    Raises:
      UserError: no such template, or another than the checkpoint's own.
    """
    wanted = template_named(asked) if asked is not None else None
    check_same_template(folder, wanted, "--template")
    return folder.template or wanted or template_named(DEFAULT_TEMPLATE)


def check_same_template(folder: CheckpointFolder, wanted: Template | None, subject: str) -> None:
    """Refuses a template that is not the one a checkpoint was fine-tuned with.

    Raises:
      UserError: it is not.
    """
    if folder.template is not None and wanted is not None and folder.template.sha256 != wanted.sha256:
        raise UserError(
            subject,
            expected=f"the template that {folder.path} was fine-tuned with, {folder.template.name}",
            found=wanted.name,
            remedy=f"take {folder.template.name}, or a checkpoint that was not fine-tuned",
        )


def check_vocabulary(model: ModelConfig, tokenizer: "Tokenizer", subject: str) -> None:
    """Refuses a tokenizer with ids that the model has no row for.

    Raises:
      UserError: it has.
    """
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            subject,
            expected=f"a tokenizer of at most {model.vocab_size} ids, the model's vocabulary",
            found=f"one of {tokenizer.vocab_size}",
            remedy="use the tokenizer that belongs to the model",
        )


def check_architecture(folder: CheckpointFolder, wanted: ModelConfig, wanted_by: str) -> None:
    """Refuses a checkpoint of another architecture.

    Raises:
      UserError: the sizes differ; each difference is named.
    """
    differences = folder.model.differences(wanted)
    if differences:
        raise UserError(
            str(folder.path),
            expected=f"the architecture of {wanted_by}",
            found="other sizes (" + ", ".join(differences) + ")",
            remedy="choose the checkpoint or the preset that belongs to the other",
        )
