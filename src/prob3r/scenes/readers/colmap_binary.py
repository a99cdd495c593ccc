"""The lengths of COLMAP's binary files, checked before pycolmap reads them.

pycolmap reads past the end of a truncated file. If a count is damaged, it does so for hours. Each
function here returns where the record that begins at `at` ends.
"""

from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import Any


def check_lengths(folder: Path, pycolmap: Any) -> None:
    """Check that every binary file of a model is as long as its counts say.

    Args:
        folder: Holds the model.
        pycolmap: The module, which knows how many parameters a kind of camera has.

    Raises:
        ValueError: A file is too short or too long.
    """

    def camera(data: mmap, at: int) -> int:
        _, kind = unpack_from("<Ii", data, at)
        parameters = pycolmap.Camera.create_from_model_id(1, kind, 1.0, 1, 1).params
        return at + 24 + 8 * len(parameters)

    records = {"cameras": camera, "images": _image, "points3D": _point, "rigs": _rig}
    for name, end in (records | {"frames": _frame}).items():
        path = folder / f"{name}.bin"
        if path.is_file():
            _check_length(path, end)


def _check_length(path: Path, end: Callable[[mmap, int], int]) -> None:
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            (count,), at = unpack_from("<Q", data, 0), 8
            for _ in range(count):
                at = min(end(data, at), len(data) + 1)  # an offset that fits a C integer
            whole = at == len(data)
    except StructError:
        whole = False
    if not whole:
        raise ValueError(f"{path.name} is not as long as it says")


def _image(data: mmap, at: int) -> int:
    """Id, rotation, translation, camera, a name that ends in 0, and points of 24 bytes."""
    name_end = data.find(b"\0", at + 64)
    if name_end < 0:
        raise ValueError("images.bin ends in a name")
    (points,) = unpack_from("<Q", data, name_end + 1)
    return int(name_end + 9 + 24 * points)


def _point(data: mmap, at: int) -> int:
    """Id, position, colour, error, and a track of 8 bytes an image."""
    (track,) = unpack_from("<Q", data, at + 43)
    return int(at + 51 + 8 * track)


def _rig(data: mmap, at: int) -> int:
    """Id, the reference sensor, and further sensors, each with a pose or without."""
    (sensors,) = unpack_from("<I", data, at + 4)
    at += 8 + 8 * min(sensors, 1)
    for _ in range(sensors - 1):
        (posed,) = unpack_from("<?", data, at + 8)
        at += 9 + 56 * posed
    return at


def _frame(data: mmap, at: int) -> int:
    """Id, rig, pose, and 16 bytes for each image."""
    (images,) = unpack_from("<I", data, at + 64)
    return int(at + 68 + 16 * images)
