"""Photographs of one scene: a folder with a `pair.json` that describes two or more views.

    {"views": [{"image": "view1.jpg", "intrinsics": [[...]], "cam_to_world": [[...]],
                "depth": "view1_depth.png"},
               {"image": "view2.jpg"}]}

Only `image` is required. `intrinsics` are 3x3, in pixels of the upright photograph, with pixel
centres at integer coordinates. `cam_to_world` is 4x4, with OpenCV axes, in metres. `depth` is a
16-bit grey image of z in millimetres, 0 where unknown. A view may have a `note`, which is ignored.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.photographs import open_image

_TOLERANCE = 1e-3  # for the entries of a rotation, which are often written with few digits


class Entry(NamedTuple):
    """The entry of one view in `pair.json`; cameras and depth are for the upright photograph.

    Attributes:
        image: File of the photograph.
        intrinsics: Intrinsics in pixels, or None.
        cam_to_world: Pose of the camera, in metres, or None.
        depth: z in metres, 0 where unknown, or None.
    """

    image: Path
    intrinsics: Float[Tensor, "1 3 3"] | None
    cam_to_world: Float[Tensor, "1 4 4"] | None
    depth: Float[Tensor, "h w"] | None


def bundled(name: str) -> Path:
    """Return the folder of a pair that is bundled with prob3r: `leuven`, `books` or `aloe`."""
    return Path(str(files("prob3r.scenes") / "pairs" / name))


def read_folder(folder: str | Path) -> tuple[Entry, ...]:
    """Read the `pair.json` of a folder and the depth files of its views, two or more.

    Raises:
        Prob3rError: `pair.json` is missing or malformed, holds a matrix that is not a valid camera,
            or names a depth file that cannot be read or a file outside the folder.
    """
    file = Path(folder) / "pair.json"
    if not file.is_file():
        raise Prob3rError(f"{file} does not exist; a pair's folder needs it to name the images.")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Prob3rError(f"{file} cannot be read as JSON ({error}).") from error
    views = content.get("views") if isinstance(content, dict) else None
    if (
        not isinstance(views, list)
        or len(views) < 2
        or any(not isinstance(view, dict) for view in views)
    ):
        raise Prob3rError(
            f'{file} must hold "views", a list of two objects or more, one for each view.'
        )
    return tuple(_entry(file, number, view) for number, view in enumerate(views, start=1))


def _entry(file: Path, number: int, view: dict[str, Any]) -> Entry:
    where = f"{file}, view {number}"
    unknown = sorted(view.keys() - {*Entry._fields, "note"})
    if unknown:
        raise Prob3rError(
            f"{where}: {unknown[0]!r} is not a key; the keys are {', '.join(Entry._fields)}."
        )
    depth = view.get("depth")
    return Entry(
        image=_inside(file.parent, where, "image", view.get("image")),
        intrinsics=_intrinsics(where, view.get("intrinsics")),
        cam_to_world=_cam_to_world(where, view.get("cam_to_world")),
        depth=None if depth is None else _depth(_inside(file.parent, where, "depth", depth)),
    )


def _inside(folder: Path, where: str, key: str, name: object) -> Path:
    """Return the path of a file; raise if it is outside the folder, which is not trusted."""
    try:
        path = folder / str(name)
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # not a valid path, or a loop of links
        inside = False
    if not inside or not isinstance(name, str):
        raise Prob3rError(
            f"{where}: {key} is {name!r}; it must be the path of a file inside the folder."
        )
    return path


def _matrix(where: str, key: str, value: object, side: int) -> Float[Tensor, "1 {side} {side}"]:
    try:
        matrix = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        matrix = torch.empty(0)
    if matrix.shape != (side, side) or not matrix.isfinite().all():
        raise Prob3rError(f"{where}: {key} must be {side} rows of {side} finite numbers.")
    return matrix[None]


def _intrinsics(where: str, value: object) -> Float[Tensor, "1 3 3"] | None:
    if value is None:
        return None
    matrix = _matrix(where, "intrinsics", value, 3)
    (fx, skew, _), (below, fy, _), last = matrix[0].tolist()
    if fx <= 0 or fy <= 0 or [skew, below, *last] != [0, 0, 0, 0, 1]:
        raise Prob3rError(
            f"{where}: intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] "
            "with positive focal lengths fx and fy."
        )
    return matrix


def _cam_to_world(where: str, value: object) -> Float[Tensor, "1 4 4"] | None:
    if value is None:
        return None
    matrix = _matrix(where, "cam_to_world", value, 4)
    rotation = matrix[0, :3, :3]
    is_rotation = (
        torch.allclose(rotation @ rotation.T, torch.eye(3), atol=_TOLERANCE)
        and torch.linalg.det(rotation) > 0
    )
    if not is_rotation or matrix[0, 3].tolist() != [0, 0, 0, 1]:
        raise Prob3rError(
            f"{where}: cam_to_world must be rigid, a rotation and a translation "
            "above a last row of 0, 0, 0, 1."
        )
    return matrix


def _depth(path: Path) -> Float[Tensor, "h w"]:
    with open_image(path) as image:
        if not image.mode.startswith("I"):
            raise Prob3rError(
                f"{path} holds pixels of mode {image.mode}; depth must be a 16-bit grey image."
            )
        millimetres = np.array(image, dtype=np.float32)
    return torch.from_numpy(millimetres) / 1000
