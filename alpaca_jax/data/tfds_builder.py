"""The TFDS builder of packed rows. Importing this module imports tensorflow-datasets (a second).

Neither building nor reading needs TensorFlow: `tfds.builder_from_directory`, `builder.as_data_source` and
`tfds.data_source` do without. What TFDS itself cannot do without TensorFlow, for this dataset as for any other, are
`tfds.load`, `builder.as_dataset` (which besides has no ArrayRecord) and the command `tfds build`.
"""

from collections.abc import Iterable, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import splits
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.utils import shard_utils
from tensorflow_datasets.proto import tf_example_pb2

from alpaca_jax.data.packing import ROW_DTYPES, PackedRow, Rows


class PackedInstructions(FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Packed instruction rows: five arrays of one length a record, in ArrayRecord files.

    TFDS's own generator-based builder collects the records of a split before it writes them: up to 1 GB in memory, then
    in temporary files, for which it needs TensorFlow. Here the rows come in their order, and their number is known, so
    each record goes straight to its file; the files, their names and what is said of them are what TFDS would make.

    TFDS would name its folder after this class and its version; `write_packed_dataset` moves the files up to the folder
    that the user named, where `tfds.builder_from_directory` finds them.
    """

    name = "packed_instructions"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, rows: Mapping[str, Rows], seq_len: int, metadata: dict[str, Any], data_dir: Path):
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

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        self.info.set_splits(splits.SplitDict([self._write(split, rows) for split, rows in self._rows.items()]))

    def _write(self, split: str, rows: Rows) -> splits.SplitInfo:
        """Writes the files of a split, as many as TFDS's rule gives it, and says what they hold."""
        names = self._get_filename_template(split_name=split)
        blank = dict.fromkeys(ROW_DTYPES, np.zeros(self._seq_len, np.int32))
        record_bytes = len(encode_row(PackedRow(**{n: blank[n].astype(dtype) for n, dtype in ROW_DTYPES.items()})))
        shards = shard_utils.ShardConfig().get_number_shards(record_bytes * len(rows), len(rows))
        ends = [0, *shard_utils.get_shard_boundaries(len(rows), shards)]
        lengths = [end - begin for begin, end in pairwise(ends)]
        records = map(encode_row, rows)
        for shard, length in enumerate(lengths):
            _write_file(names.sharded_filepath(shard_index=shard, num_shards=shards), islice(records, length))
        return splits.SplitInfo(
            name=split, shard_lengths=lengths, num_bytes=record_bytes * len(rows), filename_template=names
        )


class _LocalInfo(tfds.core.DatasetInfo):
    """Looks nowhere else for what is known about a dataset; TFDS would leave an empty temporary folder from trying."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


def _write_file(path: Any, records: Iterable[bytes]) -> None:
    # Random access wants each record to be a group of its own. Level 1 takes a third of the time of TFDS's choice (3),
    # and makes the files a fiftieth larger.
    file = ArrayRecordWriter(str(path), "group_size:1,zstd:1")
    for record in records:
        file.write(record)
    file.close()


def encode_row(row: PackedRow) -> bytes:
    """A row as TFDS encodes it (a `tf.train.Example`), its fields in the order of their names.

    TFDS leaves that order to protobuf, whose own differs from run to run.
    """
    example = tf_example_pb2.Example()
    for name in ROW_DTYPES:
        example.features.feature[name].bytes_list.value.append(getattr(row, name).tobytes())
    return example.SerializeToString(deterministic=True)


def decode_row(record: bytes) -> dict[str, np.ndarray]:
    """The arrays of a record, read-only; what TFDS's own decoding gives, in a sixth of the time."""
    feature = tf_example_pb2.Example.FromString(record).features.feature
    return {name: np.frombuffer(feature[name].bytes_list.value[0], dtype) for name, dtype in ROW_DTYPES.items()}
