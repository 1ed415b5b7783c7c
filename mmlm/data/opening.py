"""Part of the data room: from a data entry of a config to its reader, for training and for the look before it."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmlm.config import DataConfig
from mmlm.errors import InputError
from mmlm.registry import component

if TYPE_CHECKING:
    from mmlm.interfaces import Reader


def open_reader(data: DataConfig) -> "Reader":
    """The reader of one data entry; an empty data set is an InputError."""
    reader: Reader = component("readers", data.reader)(Path(data.path).expanduser(), **data.options)
    if not len(reader):
        raise InputError(f"{data.path}: the data set is empty (reader {data.reader!r} found no record)")
    return reader
