"""Distilled sets on disk, as `SPEC.md` specifies them. h5py and NumPy only."""

from condense.shards.decode import CANVASES
from condense.shards.layout import image_name, label_name
from condense.shards.read import (
    ImageFile,
    LabelFile,
    SetFiles,
    read_image_files,
    read_images,
    read_labels,
    read_set,
    sets_in,
)
from condense.shards.rows import join_rows, take_rows
from condense.shards.setfile import FileEntry, SetInfo
from condense.shards.verify import Report, SetBytes, set_bytes, verify
from condense.shards.write import shard_slices, write_images, write_labels, write_set

__all__ = [
    "CANVASES",
    "FileEntry",
    "ImageFile",
    "LabelFile",
    "Report",
    "SetBytes",
    "SetFiles",
    "SetInfo",
    "image_name",
    "join_rows",
    "label_name",
    "read_image_files",
    "read_images",
    "read_labels",
    "read_set",
    "set_bytes",
    "sets_in",
    "shard_slices",
    "take_rows",
    "verify",
    "write_images",
    "write_labels",
    "write_set",
]
