"""Makes a Hugging Face folder of any preset's size, filled with random bfloat16 numbers: something large to convert.

    python tools/make_random_llama.py --preset=llama_7b --tokenizer=FOLDER_OR_FILE --out=DIR [--vocab_size=N]

A 7B one takes 13.5 GB. The numbers are those of an untrained model in spread (standard deviation 0.02; norms are
1), so that nothing about them is special: they neither compress nor overflow. Memory stays below a few tensors.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

from alpaca_jax.convert.huggingface_config import write_model_config
from alpaca_jax.convert.huggingface_writer import FolderWriter
from alpaca_jax.convert.names import tensors_in_order
from alpaca_jax.convert.pipeline import ahead
from alpaca_jax.convert.source import TensorInfo
from alpaca_jax.data.tokenizer import load_tokenizer
from alpaca_jax.model.config import ModelConfig
from alpaca_jax.model.presets import preset
from alpaca_jax.support.files import new_folder, write_json_atomic
from alpaca_jax.support.program import Flags, run_program
from alpaca_jax.support.progress import track

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_POOL = 2**22


def main() -> None:
    """Parses the flags and writes the folder."""
    flags = Flags(prog="python tools/make_random_llama.py", description=__doc__)
    flags.add_argument("--preset", default="llama_7b", help="the size (default llama_7b)")
    flags.add_argument("--tokenizer", required=True, help="any tokenizer of at most the preset's ids")
    flags.add_argument("--out", required=True, help="the folder to make")
    flags.add_argument("--vocab_size", type=int, help="rows, where not the preset's")
    flags.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    values = flags.parse()
    sizes = preset(values.preset).to_json()
    model = ModelConfig.from_json(sizes | ({"vocab_size": values.vocab_size} if values.vocab_size else {}), "--preset")
    make_folder(model, values.tokenizer, Path(values.out), values.seed)


def make_folder(model: ModelConfig, tokenizer: str, out: Path, seed: int = 0) -> None:
    """Writes the folder."""
    loaded = load_tokenizer(tokenizer)
    infos = {name: TensorInfo(row.their_shape(model), _BFLOAT16) for row, _, name in tensors_in_order(model)}
    rng = np.random.default_rng(seed)
    # Drawing 7 billion normal numbers takes minutes; random windows of a few million of them take seconds.
    pool = (0.02 * rng.standard_normal(_POOL, np.float32)).astype(_BFLOAT16).view(np.uint16)

    def tensor(name: str, info: TensorInfo) -> np.ndarray:
        if name.endswith("norm.weight"):
            return np.ones(info.shape, _BFLOAT16)
        bits = np.empty(info.shape, np.uint16)
        flat = bits.reshape(-1)
        for start in range(0, flat.size, _POOL // 2):
            part = flat[start : start + _POOL // 2]
            part[:] = pool[(offset := rng.integers(_POOL // 2)) : offset + part.size]
        return bits.view(_BFLOAT16)

    with new_folder(out) as unfinished:
        loaded.save(unfinished)
        config = write_model_config(model, bos_id=loaded.bos_id, eos_id=loaded.eos_id, dtype="bfloat16")
        write_json_atomic(unfinished / "config.json", config)
        writer = FolderWriter(unfinished, infos)
        tensors = ((name, tensor(name, info)) for name, info in infos.items())
        for name, array in track(ahead(tensors), "writing tensors", len(infos)):
            writer.write(name, array)
        writer.close()


if __name__ == "__main__":
    run_program(main)
