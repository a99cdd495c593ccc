from pathlib import Path

import pandas as pd
import pytest

from prob3r.errors import Prob3rError
from prob3r.studies.framework.parts import read_part, write_part

TABLE = pd.DataFrame({"pair": [0, 1], "head": ["0", None], "value": [1.5, float("nan")]})


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_part(TABLE, tmp_path / "a.parquet")
    again = read_part(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(again, TABLE)
    assert again.attrs == TABLE.attrs == {}


def test_a_part_from_before_there_were_digests_is_read(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_part(tmp_path / "a.parquet"), TABLE)


def test_a_changed_number_or_name_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_part(TABLE, path)
    digest = pd.read_parquet(path).attrs
    for changed in (TABLE.assign(value=[1.5, 2.0]), TABLE.rename(columns={"value": "valve"})):
        changed.attrs = digest
        changed.to_parquet(path)
        with pytest.raises(Prob3rError, match=r"a\.parquet is damaged; delete it"):
            read_part(path)
