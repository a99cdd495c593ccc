"""The measurements of one batch on disk, with a digest that shows damage."""

from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import pandas as pd

from prob3r.errors import Prob3rError
from prob3r.io.files import writing_to

_KEY = "prob3r_digest"


def write_part(table: pd.DataFrame, path: Path) -> None:
    """Write the rows of a batch, with a digest of the rows as they are read back.

    Raises:
        Prob3rError: The file cannot be written.
    """
    buffer = BytesIO()
    table.to_parquet(buffer)
    table = table.copy()
    table.attrs[_KEY] = _digest(pd.read_parquet(buffer))
    with writing_to(path) as temporary:
        table.to_parquet(temporary)


def read_part(path: Path) -> pd.DataFrame:
    """Read the rows of a batch; an older file without a digest is read without a check.

    Raises:
        Prob3rError: The file is damaged.
    """
    try:
        table = pd.read_parquet(path)
        digest = table.attrs.pop(_KEY, None)
        if digest is not None and digest != _digest(table):
            raise ValueError("its digest differs")
    except Exception as error:  # a damaged file fails in many ways
        raise Prob3rError(
            f"{path} is damaged; delete it, and the same command measures its pairs again."
        ) from error
    return table


def _digest(table: pd.DataFrame) -> str:
    rows = pd.util.hash_pandas_object(table).to_numpy().tobytes()
    return blake2b(repr(list(table)).encode() + rows, digest_size=8).hexdigest()
