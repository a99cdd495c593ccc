"""Procedural textures in the coordinates of a surface, filtered to the size of a pixel."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor

from prob3r.rooms.atlas import read_texel
from prob3r.rooms.draws import Draws

NOISE, CHECKER, STRIPES, BRICKS, SPOTS, PHOTOGRAPH, PROJECTED = range(7)
OCTAVES = ((0.5, 0.5), (1.0, 0.3), (2.0, 0.2))  # (lattice points per cell, share)
SPAN = 6  # cells along the side of a photograph
COLUMNS = 18  # numbers that describe a texture


class Texture(NamedTuple):
    """The numbers of a texture. A row of a table of textures has them in this order.

    Attributes:
        kind: The pattern, one of the numbers NOISE to PROJECTED.
        seed: Seed of the random cells, 0 to 65535.
        frequency: Cells per metre.
        cos: Cosine of the rotation of the pattern.
        sin: Sine of the rotation of the pattern.
        shift_u: Horizontal offset of the pattern in cells.
        shift_v: Vertical offset of the pattern in cells.
        photograph: Number of the photograph, if ``kind`` is PHOTOGRAPH or PROJECTED.
        grain: How strongly noise changes the brightness.
        ground: Colour between the cells: red, green, blue in [0, 1].
        first: One end of the range of colours of the cells.
        second: The other end of this range.
    """

    kind: Tensor
    seed: Tensor
    frequency: Tensor
    cos: Tensor
    sin: Tensor
    shift_u: Tensor
    shift_v: Tensor
    photograph: Tensor
    grain: Tensor
    ground: tuple[Tensor, Tensor, Tensor]
    first: tuple[Tensor, Tensor, Tensor]
    second: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def from_columns(cls, columns: list[Tensor]) -> "Texture":
        """Return a texture from the ``COLUMNS`` columns of a table of textures."""
        kind, seed, frequency, cos, sin, shift_u, shift_v, photograph, grain = columns[:9]
        ground, first, second = ((columns[i], columns[i + 1], columns[i + 2]) for i in (9, 12, 15))
        return cls(
            kind,
            seed,
            frequency,
            cos,
            sin,
            shift_u,
            shift_v,
            photograph,
            grain,
            ground,
            first,
            second,
        )


def hsv_to_rgb(hsv: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    """Red, green and blue in [0, 1] from hue, saturation and value.

    Args:
        hsv: Hue in turns (any real number), saturation in [0, 1], value in [0, 1].
    """
    hue, saturation, value = hsv.unbind(-1)
    sector = (hue[..., None] * 6 + hsv.new_tensor([5.0, 3.0, 1.0])) % 6
    ramp = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value[..., None] * (1 - saturation[..., None] * ramp)


def draw_textures(
    draws: Draws, walls: int, objects: int, photographs: int
) -> Float[Tensor, "b s c"]:
    """Draw a row of texture numbers for each surface.

    Args:
        draws: The random numbers.
        walls: Number of surfaces of the room. Their textures are coarser and paler.
        objects: Number of objects; their surfaces come after those of the room.
        photographs: Number of photographs; with some, half of the surfaces get one.
    """
    count = walls + objects
    large = torch.arange(count, device=draws.numbers.device) < walls
    kind = draws.between(0.0, 5.0, count).floor()
    photographed = draws.chance(0.5, count)
    chosen = (draws.between(0.0, 1.0, count) * max(photographs, 1)).floor()
    if photographs:
        kind = torch.where(photographed, PHOTOGRAPH, kind)
    seed = draws.between(0.0, 65536.0, count).floor()
    cell = draws.between(0.0, 1.0, count)
    cell = torch.where(large, 0.18 + 0.42 * cell, 0.09 + 0.16 * cell)
    turn = draws.between(-0.6, 0.6, count)
    turn = torch.where((kind == BRICKS) | (kind == PHOTOGRAPH), 0.0, turn)
    shift = draws.between(0.0, 64.0, count, 2)
    grain = draws.between(1.4, 2.6, count)  # strong, so that no two cells of a pattern look alike

    hue = draws.between(0.0, 1.0, count, 3)
    saturation = draws.between(0.0, 1.0, count, 3)
    saturation = torch.where(large[:, None], 0.15 + 0.5 * saturation, 0.4 + 0.6 * saturation)
    dark = draws.between(0.15, 0.4, count)
    light = draws.between(0.8, 1.0, count)
    middle = draws.between(0.4, 0.8, count)
    swap = draws.chance(0.5, count)
    value = torch.stack(
        [torch.where(swap, light, dark), torch.where(swap, dark, light), middle], dim=-1
    )
    colours = hsv_to_rgb(torch.stack([hue, saturation, value], dim=-1))
    numbers = [kind, seed, 1 / cell, turn.cos(), turn.sin(), shift[..., 0], shift[..., 1]]
    table = torch.stack([*numbers, chosen, grain], dim=-1)
    return torch.cat([table, colours.flatten(-2)], dim=-1)


def soften_textures(draws: Draws, textures: Float[Tensor, "b s c"]) -> Float[Tensor, "b s c"]:
    """Make patterns paler, plainer and of more different sizes, as on the surfaces of a home.

    A quarter of the surfaces get almost one colour. Photographs keep their colours.
    """
    count = textures.shape[1]
    plain = draws.chance(0.25, count)
    strength = draws.between(0.0, 1.0, count)
    strength = torch.where(plain, 0.25 * strength, 0.3 + 0.7 * strength)
    colourful = draws.between(0.0, 1.0, count)[..., None, None]
    scale = draws.between(-0.7, 0.7, count).exp()

    colours = textures[..., 9:].unflatten(-1, (3, 3))
    colours = torch.lerp(colours.mean(dim=-1, keepdim=True), colours, colourful)
    middle = colours.mean(dim=-2, keepdim=True)
    colours = torch.lerp(middle, colours, strength[..., None, None])
    softened = textures.clone()
    softened[..., 2] *= scale
    softened[..., 8] *= strength
    softened[..., 9:] = colours.flatten(-2)
    return softened


def hash_cells(
    x: Int32[Tensor, "*n"], y: Int32[Tensor, "*n"], seed: Int32[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """A pseudo-random number in [0, 1] for each cell of a plane.

    The hash multiplies, shifts and xors 16-bit numbers. Every product is below 2^31, so 32-bit
    integers are enough and the result is the same on all machines.
    """
    h = (x ^ seed) & 0xFFFF
    h = ((h ^ (h >> 7)) * 0x6A35) & 0xFFFF
    h = h ^ (y & 0xFFFF)
    h = ((h ^ (h >> 9)) * 0x58D9) & 0xFFFF
    h = ((h ^ (h >> 6)) * 0x72B5) & 0xFFFF
    h = h ^ (h >> 8)
    return h.float() * (1 / 65535)


def value_noise(
    u: Float[Tensor, "*n"], v: Float[Tensor, "*n"], seed: Int32[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Value noise in [0, 1]: random values at integer points, with smooth interpolation."""
    fu, fv = u.floor(), v.floor()
    x, y = fu.int(), fv.int()
    a, b = u - fu, v - fv
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = torch.lerp(hash_cells(x, y, seed), hash_cells(x + 1, y, seed), a)
    high = torch.lerp(hash_cells(x, y + 1, seed), hash_cells(x + 1, y + 1, seed), a)
    return torch.lerp(low, high, b)


def fractal_noise(
    u: Float[Tensor, "*n"],
    v: Float[Tensor, "*n"],
    seed: Int32[Tensor, "*n"],
    footprint: Float[Tensor, "*n"],
) -> Float[Tensor, "*n"]:
    """Sum of octaves of noise, centred at 0; octaves finer than a pixel fade out.

    Args:
        u: Horizontal position in cells.
        v: Vertical position in cells.
        seed: Seed of the noise.
        footprint: Size of a pixel in cells.
    """
    total = torch.zeros_like(u)
    for octave, (frequency, share) in enumerate(OCTAVES):
        kept = (1.6 - footprint * frequency).clamp(0, 1)
        noise = value_noise(u * frequency, v * frequency, seed + 7919 * octave)
        total = total + share * kept * (noise - 0.5)
    return total


def paint(
    texture: Texture,
    u: Float[Tensor, "*n"],
    v: Float[Tensor, "*n"],
    face: Int32[Tensor, "*n"],
    footprint: Float[Tensor, "*n"],
    atlas: UInt8[Tensor, "p 3 t"] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The colour of surfaces at points.

    Args:
        texture: The texture at each point.
        u: Horizontal coordinate along the surface in metres.
        v: The other coordinate in metres.
        face: Number of the face, so that the faces of a box differ.
        footprint: Size of a pixel on the surface in metres.
        atlas: Photographs, from `read_atlas`; without them, no surface shows a photograph.

    Returns:
        Red, green and blue in [0, 1].
    """
    kind = texture.kind
    seed = (texture.seed.int() + 977 * face) & 0xFFFF
    x = (u * texture.cos + v * texture.sin) * texture.frequency + texture.shift_u
    y = (v * texture.cos - u * texture.sin) * texture.frequency + texture.shift_v
    width = footprint * texture.frequency
    noise = fractal_noise(x, y, seed, width)

    bricks, stripes = kind == BRICKS, kind == STRIPES
    row = y.floor()
    column = torch.where(bricks, 0.5 * x + 0.5 * (row.int() & 1), x)
    left = column.floor()
    cell_x, cell_y = left.int(), torch.where(stripes, 0.0, row).int()
    a, b = (column - left) - 0.5, (y - row) - 0.5
    # Distance to the nearest edge of the cell, in cells; a brick is two cells long.
    edge_x = (0.5 - a.abs()) * torch.where(bricks, 2.0, 1.0)
    edge = torch.where(stripes, edge_x, torch.minimum(edge_x, 0.5 - b.abs()))
    odd = ((cell_x + cell_y) & 1) == 1
    hue = hash_cells(cell_x, cell_y, seed)

    # Share of the pixel that the figure covers, as if the figure's border were straight.
    sharpness = 1 / width.clamp(min=0.02)
    board = torch.where(odd, 0.5, -0.5) * (2 * edge * sharpness).clamp(max=1) + 0.5
    brick = ((edge - 0.09) * sharpness + 0.5).clamp(0, 1)
    radius = 0.24 + 0.2 * hue
    spot = ((radius - (a * a + b * b).sqrt()) * sharpness + 0.5).clamp(0, 1)
    cloud = (0.5 + 5 * noise).clamp(0, 1)
    cover = torch.where(bricks, brick, torch.where(kind == SPOTS, spot, board))
    cover = torch.where(kind == NOISE, cloud, cover)
    hue = torch.where(kind == NOISE, (0.5 - 4 * noise).clamp(0, 1), hue)
    # Cells smaller than a pixel are replaced by their mean.
    kept = (1.6 - width).clamp(0, 1)
    cover = torch.lerp(torch.where(bricks, 0.75, 0.5), cover, kept)
    hue = torch.lerp(torch.full_like(hue, 0.5), hue, kept)
    gain = (1 + texture.grain * noise).clamp(min=0)

    colour = [
        torch.lerp(ground, torch.lerp(first, second, hue), cover) * gain
        for ground, first, second in zip(texture.ground, texture.first, texture.second, strict=True)
    ]
    if atlas is not None:
        number = texture.photograph.int()
        picture = read_texel(atlas, number, x / SPAN, y / SPAN, width / SPAN)
        covered = kind >= PHOTOGRAPH
        colour = [torch.where(covered, p, c) for p, c in zip(picture, colour, strict=True)]
    return colour[0], colour[1], colour[2]
