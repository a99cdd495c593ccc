"""Photographs as textures: image pyramids, sampled at the resolution of a pixel (mipmaps)."""

from pathlib import Path
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.scenes.framing import Framing
from prob3r.scenes.photographs import load_photograph

EDGE = 256  # texels along a side of a photograph
LEVELS = 7  # levels of the pyramid; the coarsest has 4 texels along a side
_IN_USE: WeakValueDictionary[object, Tensor] = WeakValueDictionary()
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_atlas(folder: Path) -> UInt8[Tensor, "p 3 t"]:
    """Read the photographs of a folder (JPEG, PNG or WebP), in the order of their names.

    An atlas is large, so it is shared: while an atlas is in use, the same files give the same
    object.

    Returns:
        The image pyramids of the central squares of the photographs, level after level, as colours
        from 0 to 255. A photograph takes 0.25 MiB.

    Raises:
        Prob3rError: The folder holds no photograph, or a photograph cannot be read.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise Prob3rError(
            f"{folder} holds no photograph; give a folder of JPEG, PNG or WebP files."
        )
    key = tuple((p.resolve(), (seen := p.stat()).st_mtime_ns, seen.st_size) for p in paths)
    if (shared := _IN_USE.get(key)) is not None:
        return shared
    framing = Framing(EDGE, "square")
    texels = sum((EDGE >> level) ** 2 for level in range(LEVELS))
    atlas = torch.empty(len(paths), 3, texels, dtype=torch.uint8)
    for row, path in enumerate(paths):
        atlas[row] = _pyramid(load_photograph(path, framing).image)[0]
    _IN_USE[key] = atlas
    return atlas


def _pyramid(image: Float[Tensor, "1 3 h w"]) -> UInt8[Tensor, "1 3 t"]:
    """The pyramid of one image with colours in [-1, 1]: all levels, one after another."""
    colours = 127.5 * image + 127.5
    levels = [F.avg_pool2d(colours, 2**level).flatten(2) for level in range(LEVELS)]
    return torch.cat(levels, dim=2).round().clamp(0, 255).to(torch.uint8)


def read_texel(
    atlas: UInt8[Tensor, "p 3 t"],
    number: Int[Tensor, "*n"],
    u: Float[Tensor, "*n"],
    v: Float[Tensor, "*n"],
    width: Float[Tensor, "*n"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Red, green and blue of photographs, from 0 to 1.

    They are interpolated bilinearly in the level of the pyramid that is nearest to the width of a
    pixel.

    Args:
        atlas: From `read_atlas`.
        number: Number of the photograph.
        u: Position to the right. A photograph has width 1; outside it, mirrored and unmirrored
            copies alternate.
        v: Position upwards, likewise.
        width: Width of a pixel in the same unit.
    """
    level = (width * EDGE).log2().round().clamp(0, LEVELS - 1).long()
    edge = EDGE >> level
    # The finer levels have EDGE^2 (1 + 1/4 + ...) texels together, a geometric series.
    first = (EDGE * EDGE - edge * edge) * 4 // 3
    last = edge - 1
    x = ((1 - (u % 2 - 1).abs()) * edge - 0.5).clamp(min=0).minimum(last)
    y = ((1 - ((-v) % 2 - 1).abs()) * edge - 0.5).clamp(min=0).minimum(last)
    left, top = x.long(), y.long()
    right, below = (left + 1).minimum(last), (top + 1).minimum(last)
    a, b = x - left, y - top
    upper, lower = first + top * edge, first + below * edge
    number = number.long()
    channels = []
    for channel in range(3):
        plane = atlas[:, channel]
        corners = [
            plane[number, row + column].float()
            for row in (upper, lower)
            for column in (left, right)
        ]
        high, low = torch.lerp(corners[0], corners[1], a), torch.lerp(corners[2], corners[3], a)
        channels.append(torch.lerp(high, low, b) * (1 / 255))
    return channels[0], channels[1], channels[2]
