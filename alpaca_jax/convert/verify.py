"""Holds a checkpoint's logits against those that transformers computes from a reference.

The only module that imports transformers. It reads safetensors or GGUF from the disk, fetches nothing and runs no code
that comes with a model.

L sequence length, C tokens of a chunk, P compared positions, V vocabulary.
"""

import dataclasses
import gc
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.checkpoint.folder import CheckpointFolder
from alpaca_jax.convert.certificate import CERTIFICATE, check_certificate
from alpaca_jax.convert.formats import open_source
from alpaca_jax.support.errors import UserError, shorten
from alpaca_jax.support.progress import waiting

# What passes. In float32, the largest error as a share of the largest logit: two right programs differ by the order in
# which they add, by 8e-6 for the 30 layers of SmolLM2, and a few times that for deeper models. In bfloat16, the mean
# divergence in nats: every product is rounded to 8 bits, after which single logits tell nothing; SmolLM2 has 0.02.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}

_TEXT = (
    "The lighthouse keeper counted 1,284 steps every evening, lit the lamp at 19:45, and wrote one line in his book: "
    "“Wind north-west, sea calm, nothing to report.” Then he made tea, fed the cat, and waited for the night boat."
)
_LONG = 4096
_COMPARED = 48  # positions of the long sequence
_CHUNK = 256
_IN_FLOAT64 = "F64_F64_F64"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two models agree.

    Attributes:
      max_abs_error: the largest difference of two logits.
      kl: mean Kullback–Leibler divergence of our next-token distributions from the reference's, in nats.
      top1_agreement: the share of positions at which both find the same token the likeliest.
      positions: the positions that were compared, in ascending order.
      largest_logit: of the reference, by absolute value.
      tolerance: in float32 the largest share of `largest_logit` that the error may be, in bfloat16 the largest `kl`.
      dtype: what both computed in.
      tensors_checked: tensors that were read and held against the certificates of the folders.
    """

    max_abs_error: float
    kl: float
    top1_agreement: float
    positions: list[int]
    largest_logit: float
    tolerance: float
    dtype: str
    tensors_checked: int

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        if self.dtype == "bfloat16":
            return self.kl <= self.tolerance
        return self.max_abs_error <= self.tolerance * self.largest_logit

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def verify(
    checkpoint: str | Path, reference: str | Path, tolerance: float | None = None, dtype: str = "float32"
) -> Agreement:
    """Compares logits on a text and on random tokens, at short positions and at long ones.

    The long sequence has 4,096 tokens, or as many as the model was made for. The models are in memory one after the
    other, and only logits at a sample of positions are kept.

    Args:
      checkpoint: what `convert import` wrote, or a work directory of `train`.
      reference: a Hugging Face folder with safetensors, or a GGUF file.
      tolerance: see `Agreement`; None for the one of `TOLERANCES`.
      dtype: float32, or bfloat16 for a model that has no room in float32.

    Raises:
      UserError: torch or transformers is not installed, one of the models cannot be read or has no room, or they have
        different vocabularies.
    """
    if dtype not in TOLERANCES:
        raise UserError("--dtype", expected=" or ".join(TOLERANCES), found=shorten(dtype), remedy="choose one of them")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UserError("--tolerance", expected="a number from 0 on", found=str(tolerance), remedy="give such a number")
    if not Path(reference).exists():
        raise _not_a_reference(Path(reference), "nothing there")
    folder = CheckpointFolder.open(checkpoint)
    _check_memory(folder, dtype)
    checked = _check_certificates(folder.path, Path(reference))
    sequences = sequences_to_compare(folder)
    with waiting("the reference's logits"):
        theirs = their_logits(Path(reference), sequences, dtype, folder.model.vocab_size)
    with waiting("the checkpoint's logits"):
        ours = our_logits(folder, sequences, dtype)
    theirs_PV, ours_PV = np.concatenate(theirs), np.concatenate(ours)
    return Agreement(
        max_abs_error=float(np.abs(ours_PV - theirs_PV).max()),
        kl=float(np.mean(_divergence(theirs_PV, ours_PV))),
        top1_agreement=float(np.mean(theirs_PV.argmax(1) == ours_PV.argmax(1))),
        positions=sorted({int(position) for _, compared in sequences for position in compared}),
        largest_logit=float(np.abs(theirs_PV).max()),
        tolerance=TOLERANCES[dtype] if tolerance is None else tolerance,
        dtype=dtype,
        tensors_checked=checked,
    )


# A sequence's tokens, and the positions at which logits are compared.
Compared = tuple[list[int], np.ndarray]


def sequences_to_compare(folder: CheckpointFolder) -> list[Compared]:
    """The text from its first to its last token; random tokens, compared densely at both ends and sparsely between."""
    model, tokenizer = folder.model, folder.tokenizer()
    text = tokenizer.encode_prompt(_TEXT)[: model.max_position_embeddings]
    length = min(_LONG, model.max_position_embeddings)
    random = np.random.default_rng(0).integers(tokenizer.vocab_size, size=length).tolist()
    ends = np.arange(min(length, _COMPARED // 4))
    between = np.linspace(0, length - 1, _COMPARED // 2, dtype=int)
    return [(text, np.arange(len(text))), (random, np.unique([*ends, *between, *(length - 1 - ends)]))]


def their_logits(reference: Path, sequences: list[Compared], dtype: str, vocab_size: int) -> list[np.ndarray]:
    """What transformers computes from a reference: [P, V] of each sequence, float32.

    Args:
      reference: as for `verify`.
      sequences: their tokens and the positions compared.
      dtype: what it computes in: float32, bfloat16 or float64.
      vocab_size: what the reference must have.

    Raises:
      UserError: transformers is not installed, or the reference cannot be read or has another vocabulary.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # its bars for GGUF files, which transformers' own switch leaves on
    try:
        import transformers
    except ImportError as error:
        raise _no_extra(error) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"pretrained_model_name_or_path": reference, "use_safetensors": True}
    if reference.is_file():
        where = {"pretrained_model_name_or_path": reference.parent, "gguf_file": reference.name}
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except ImportError as error:
        raise _no_extra(error) from error
    except Exception as error:  # transformers lets out whatever its parts raise
        raise _not_a_reference(reference, shorten(str(error), 200)) from error
    if left_random := sorted(report["missing_keys"]):
        raise _not_a_reference(reference, f"no tensor {left_random[0]}")
    if model.config.vocab_size != vocab_size:
        raise UserError(
            str(reference),
            expected=f"a model of the checkpoint's vocabulary, {vocab_size}",
            found=str(model.config.vocab_size),
            remedy="give the model that the checkpoint was imported from",
        )
    model.eval().requires_grad_(False)
    logits = []
    for tokens, positions in sequences:
        inputs = transformers.BatchEncoding({"tokens": [tokens], "positions": [positions.tolist()]}, tensor_type="pt")
        output = model(inputs["tokens"], logits_to_keep=inputs["positions"][0], use_cache=False)
        logits.append(output.logits[0].float().numpy())
    del model, output
    gc.collect()  # before the other model needs the room
    return logits


def our_logits(folder: CheckpointFolder, sequences: list[Compared], dtype: str) -> list[np.ndarray]:
    """What we compute from a checkpoint: [P, V] of each sequence, float32."""
    import jax
    import jax.numpy as jnp

    from alpaca_jax.checkpoint.store import Store, abstract_parameters
    from alpaca_jax.model.cache import KVCache
    from alpaca_jax.model.definition import define

    definition = define(folder.model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = jax.tree.map(lambda _: place, definition.shapes)
    with Store(folder.path) as store:
        parameters = store.restore_parameters(abstract_parameters(definition.shapes, places, dtype), folder.step)

    # Chunk by chunk through the cache: attention's scores of a whole long sequence would not fit beside a large model.
    @jax.jit
    def extend(parameters: Any, tokens_1C: Any, positions_1C: Any, cache: Any) -> Any:
        return definition.bind(parameters).extend(tokens_1C, positions_1C, cache)

    score = jax.jit(lambda parameters, hidden_1PD: definition.bind(parameters).logits(hidden_1PD))
    logits = []
    with jax.default_matmul_precision(sums_precision(dtype)):
        for tokens, positions in sequences:
            slots = -(-len(tokens) // _CHUNK) * _CHUNK
            cache = KVCache.empty(folder.model, 1, slots, jnp.dtype(dtype))
            padded_1L = jnp.asarray([tokens + [0] * (slots - len(tokens))])
            hidden = []
            for start in range(0, slots, _CHUNK):
                places_1C = jnp.arange(start, start + _CHUNK)[None]
                hidden_1CD, cache = extend(parameters, padded_1L[:, start : start + _CHUNK], places_1C, cache)
                hidden.append(hidden_1CD)
            scores_1PV = score(parameters, jnp.concatenate(hidden, 1)[:, positions])
            logits.append(np.asarray(scores_1PV[0, :, : folder.model.vocab_size]))
    return logits


def sums_precision(dtype: str) -> str:
    """How products are summed in a computation in `dtype`, for `jax.default_matmul_precision`.

    XLA adds up to 480 terms in a row on a CPU, and is 1.6 times as far from the exact sums as torch. At a text's first
    token, where some channels hold numbers a thousand times the others', that alone moves a logit of SmolLM2 by 1.7e-4.
    Summed in float64, at two to three times the work, what our side adds to the error is less than what theirs does.
    """
    import jax

    return _IN_FLOAT64 if dtype == "float32" and jax.default_backend() == "cpu" else "highest"


def _divergence(theirs_PV: np.ndarray, ours_PV: np.ndarray) -> np.ndarray:
    """Kullback–Leibler divergence at each position [P], in nats."""

    def log_softmax(x_PV: np.ndarray) -> np.ndarray:
        shifted = x_PV.astype(np.float64) - x_PV.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    p_PV, q_PV = log_softmax(theirs_PV), log_softmax(ours_PV)
    return (np.exp(p_PV) * (p_PV - q_PV)).sum(1)


def _check_certificates(*folders: Path) -> int:
    """Reads the tensors of the folders that have a certificate, and gives how many there were."""
    return sum(check_certificate(open_source(folder)) for folder in folders if (folder / CERTIFICATE).is_file())


def _check_memory(folder: CheckpointFolder, dtype: str) -> None:
    """Refuses a model that has no room on this machine before it is read."""
    model = folder.model
    needed = model.num_parameters * np.dtype(np.float32).itemsize // (2 if dtype == "bfloat16" else 1)
    if sums_precision(dtype) == _IN_FLOAT64:
        needed += model.padded_vocab_size * model.hidden_size * np.dtype(np.float64).itemsize  # the head, widened whole
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > has:
        raise UserError(
            str(folder.path),
            expected=f"memory for {needed / 2**30:.1f} GiB of parameters in {dtype}",
            found=f"{has / 2**30:.1f} GiB",
            remedy="use a larger machine" if dtype == "bfloat16" else "try --dtype=bfloat16, or a larger machine",
        )


def _no_extra(error: ImportError) -> UserError:
    return UserError(
        "convert verify",
        expected="torch and transformers, which compute the reference",
        found=shorten(str(error), 120),
        remedy='install them: pip install "alpaca-jax[torch]"',
    )


def _not_a_reference(reference: Path, found: str) -> UserError:
    return UserError(
        str(reference),
        expected="a model that transformers loads from safetensors or GGUF",
        found=found,
        remedy="check the path; other forms can be imported and exported first",
    )
