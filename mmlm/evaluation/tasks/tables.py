"""Evaluation room: rows of the tables that benchmarks are published as - TSV with pictures in base64, and Parquet."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.tasks.task import readable
from mmlm.training.readers.field import Field
from mmlm.training.readers.source import LIMIT

_ROWS = 32  # read at once


def tsv_rows(path: Path, needed: Sequence[str]) -> Iterator[Field]:
    """The rows of a tab-separated file with a header, as objects of text; empty cells are null. InputError where the
    header lacks a column of `needed`, or a row is not as long as it."""
    before = csv.field_size_limit(LIMIT)  # the module's own limit is less than a picture
    try:
        with readable(path, "a table of tab-separated values").open(encoding="utf-8-sig", newline="") as f:
            rows = csv.reader(f, delimiter="\t")
            names = next(rows, [])
            if lacking := [n for n in needed if n not in names]:
                shown = ", ".join(names[:12])[:200] or "an empty file"
                raise InputError(f"{path}: expected the columns {', '.join(needed)}, got {shown}; {lacking} not found")
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if len(row) != len(names):
                    raise InputError(f"{where}: expected {len(names)} cells, as the header has, got {len(row)}")
                yield Field(where, "", {n: cell or None for n, cell in zip(names, row, strict=True)})
    except (csv.Error, UnicodeDecodeError) as e:
        raise InputError(f"{path}: expected tab-separated values in UTF-8, got: {str(e)[:200]}") from e
    finally:
        csv.field_size_limit(before)


def parquet_rows(path: Path, needed: Sequence[str]) -> Iterator[Field]:
    """The rows of a Parquet file as objects. InputError where it is none, or lacks a column of `needed`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    i = 0
    try:
        with pq.ParquetFile(readable(path, "a Parquet file")) as opened:
            names = opened.schema_arrow.names
            if lacking := [n for n in needed if n not in names]:
                raise InputError(f"{path}: expected the columns {', '.join(needed)}; {lacking} not found in {names}")
            for batch in opened.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    yield Field(f"{path}#{i}", "", row)
                    i += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}#{i}: cannot be read as Parquet: {str(e)[:200]}") from e
