import struct
from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.report import Explanation, write_json, write_page, write_ply

FORMATS = {"float": "f", "uchar": "B"}


def read_ply(path: Path) -> tuple[list[str], list[tuple]]:
    """The names and the values of a binary PLY file's vertices, one by one."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    form = struct.Struct("<" + "".join(FORMATS[kind] for kind, _ in properties))
    assert len(body) == count * form.size
    return [name for _, name in properties], list(form.iter_unpack(body))


def test_a_point_cloud_holds_every_pixel_of_both_views(knowing: Explanation, tmp_path) -> None:
    write_ply(knowing, tmp_path / "cloud.ply")
    names, vertices = read_ply(tmp_path / "cloud.ply")
    assert names == ["x", "y", "z", "red", "green", "blue", "confidence", "view"]
    assert len(vertices) == 2 * 48 * 48
    row, column = 7, 30
    vertex = vertices[48 * 48 + row * 48 + column]
    point = knowing.measured.points[-1][1][0, row, column]
    colour = (knowing.views.view2.image[0, :, row, column] + 1) * 127.5
    torch.testing.assert_close(torch.tensor(vertex[:3]), point)
    assert vertex[3:6] == tuple(colour.round().int().tolist())
    assert vertex[6:] == (5.0, 2)


@pytest.mark.parametrize("write", [write_ply, write_json, write_page])
def test_what_cannot_be_written_leaves_nothing(write, knowing: Explanation, tmp_path) -> None:
    for path in (tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(Prob3rError, match="cannot be written"):
            write(knowing, path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole(knowing: Explanation, tmp_path) -> None:
    path = tmp_path / "numbers.json"
    path.write_text("what stood here before")
    write_json(knowing, path)
    assert path.read_text().startswith("{")
    assert list(tmp_path.iterdir()) == [path]
