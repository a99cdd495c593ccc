"""Files of data sets. A damaged file makes its item corrupt; it does not end the run."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.photographs import open_image
from prob3r.scenes.readers.corrupt import CorruptError

Array = npt.NDArray[Any]


def optional(module: str, extra: str) -> Any:
    """Import a module that only some readers need.

    Raises:
        Prob3rError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Prob3rError(
            f"This data set needs the Python package {module}, which is not installed; "
            f"pip install 'prob3r[{extra}]' brings it."
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise every error inside the block as a CorruptError with a sentence that names the file.

    Raises:
        CorruptError: The file is missing, or an error occurred in the block.
    """
    if not path.is_file():
        raise CorruptError(f"{path} does not exist.", "missing file")
    try:
        yield
    except CorruptError:
        raise
    except Prob3rError as error:  # already a sentence that names the file
        raise CorruptError(str(error)) from error
    except Exception as error:  # decoders raise many classes for a damaged file
        raise CorruptError(f"{path} cannot be read ({reason_of(error)}).") from error


def reason_of(error: Exception) -> str:
    """Return the message of a decoder's error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def read_arrays(path: Path, *keys: str) -> list[Array]:
    """Read arrays of an `.npz` file by name."""
    with reading(path), np.load(path) as content:
        return [content[key] for key in keys]


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in an `.npz` file."""
    with reading(path), np.load(path) as content:
        return list(content)


def read_table(path: Path) -> list[list[str]]:
    """Read the words of each line of a text file, without empty lines and comments."""
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise TypeError("it holds no object")
    return content


def read_depth(path: Path, unit: float) -> Float[Tensor, "h w"]:
    """Read a depth map: 16-bit grey PNG, `.npy`, EXR, or COLMAP's `.bin`.

    Args:
        path: The file.
        unit: Factor from the values in the file to the scene's unit of length.

    Returns:
        z in the scene's unit; 0 where the file has no positive finite number.

    Raises:
        CorruptError: The file is missing, damaged, or not a depth map.
    """
    decode = _DECODERS.get(path.suffix.lower(), _grey)
    with reading(path):
        steps = np.asarray(decode(path), dtype=np.float32).squeeze()
        if steps.ndim != 2:
            raise ValueError(f"its shape is {steps.shape}, not that of an image")
    depth = torch.tensor(steps) * unit
    return depth.where(depth.isfinite() & (depth > 0), 0.0)


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image file without decoding it."""
    with reading(path), open_image(path) as image:
        return image.height, image.width


def _grey(path: Path) -> Array:
    with open_image(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError(f"its pixels are of mode {image.mode}, not of 16-bit grey")
        return np.array(image)


def _exr(path: Path) -> Array:
    channels = optional("OpenEXR", "exr").File(str(path)).channels()
    name = next((name for name in ("Y", "Z", "R") if name in channels), None)
    if name is None:
        raise ValueError(f"its channels are {', '.join(channels)}; depth is in Y, Z or R")
    return np.asarray(channels[name].pixels)


def _colmap(path: Path) -> Array:
    """Decode `width&height&channels&` and little-endian floats, row by row.

    pycolmap's reader accepts truncated files, so it is not used here.
    """
    *header, data = path.read_bytes().split(b"&", 3)
    width, height, channels = (int(number) for number in header)
    return np.frombuffer(data, dtype="<f4").reshape(channels, height, width)


_DECODERS: dict[str, Callable[[Path], Array]] = {".npy": np.load, ".exr": _exr, ".bin": _colmap}
