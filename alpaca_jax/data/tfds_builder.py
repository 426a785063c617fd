"""The TFDS builder of packed rows. Importing this module imports tensorflow-datasets (a second)."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.proto import tf_example_pb2

from alpaca_jax.data.packing import ROW_DTYPES, PackedRow


class PackedInstructions(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Packed instruction rows: five arrays of one length a record, in ArrayRecord files.

    TFDS would name its folder after this class and its version; `write_packed_dataset` moves the files up to the folder
    that the user named, where `tfds.builder_from_directory` finds them.
    """

    name = "packed_instructions"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, rows: Mapping[str, Iterable[PackedRow]], seq_len: int, metadata: dict[str, Any], data_dir: Path
    ):
        """Takes the rows of each split; `metadata` may still grow while they are written."""
        self._rows, self._seq_len, self._metadata = rows, seq_len, metadata
        super().__init__(data_dir=data_dir)

    def _info(self) -> Any:
        # 'bytes' reads twice as fast as the plain encoding; the record files compress by themselves.
        features = {
            name: tfds.features.Tensor(shape=(self._seq_len,), dtype=dtype, encoding="bytes")
            for name, dtype in ROW_DTYPES.items()
        }
        return _LocalInfo(
            builder=self,
            description="Instructions, tokenised and packed into rows of one length by alpaca_jax.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._metadata),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: Iterable[PackedRow]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, row in enumerate(rows):
            yield key, {name: getattr(row, name) for name in ROW_DTYPES}

    def _example_writer(self) -> Any:
        return _DeterministicWriter(self.info.file_format)


class _LocalInfo(tfds.core.DatasetInfo):
    """Looks nowhere else for what is known about a dataset; TFDS would leave an empty temporary folder from trying."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class _DeterministicWriter(writer.ExampleWriter):
    """Orders the features within each record by name; protobuf's own order differs from run to run."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """See `ExampleWriter`."""
        return super().write(path, ((key, _in_order(record)) for key, record in examples))


def _in_order(record: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
