"""Scenes: from a vector of uniform numbers to a furnished room or an open ground.

The world's z axis points up, and the floor is at z = 0. Lengths are in metres. Every object is a
canonical shape (the box ``[-1, 1]^3``, the unit ball, or the cylinder of radius 1 between z = -1
and z = 1) after an affine map, so a few small tensors describe a scene. Each slot of objects has a
fixed shape. An object that a scene does not have is far away from everything.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.rooms.draws import Draws
from prob3r.rooms.textures import draw_textures, soften_textures

BOXES = range(0, 4)  # the last one is a thin panel
ELLIPSOIDS = range(4, 6)
CYLINDERS = range(6, 8)
OBJECTS = 8  # slots of furniture; the slots of small things have the same shapes again
PANEL = 3  # slot of the panel
WALLS = 6  # surfaces 0 to 5 are the room's: x-, x+, y-, y+, floor, ceiling
FLOOR = 4
PARKED = 1e4  # metres; all coordinates of an absent object
STACKS = ((5, 0), (2, 6))  # (upper slot, lower slot) of objects that may stand on one another
TWINS = ((0, 1, 2), (0, 1), (4, 5), (6, 7))  # slots that may become look-alikes
LIGHTS = 3  # largest number of lights


class Scene(NamedTuple):
    """A batch of scenes.

    Attributes:
        linear: Maps a world offset from an object's centre to the object's canonical frame.
        centre: Centres of the objects in the world.
        half: Half sizes of the objects along their own axes.
        room: Half sizes of the room. Its floor is at z = 0, centred at the origin.
        outdoors: Whether there are no walls and no ceiling. All but the ground and the objects is
            then sky.
        textures: One row of texture numbers for each surface: 6 of the room, then the objects.
        lights: Positions of the lights in the world.
        power: Strengths of the lights; 0 for a light that is off.
        half_distance: Distance at which a light has half its strength.
        ambient: Strength of the ambient light.
        sky: Colours at the horizon and at the zenith, in [0, 1].
        alike: Whether the object is one of the scene's look-alikes.
        prototype: Slot that an object is a copy of (its own, or that of its first look-alike);
            -1 for an object that is absent.
        interest: The point that the cameras look at.
        extent: Half size of the part of the scene in which the cameras move.
        projector: Maps a homogeneous world point to homogeneous coordinates of a photograph, whose
            width and height are 1.
    """

    linear: Float[Tensor, "b k 3 3"]
    centre: Float[Tensor, "b k 3"]
    half: Float[Tensor, "b k 3"]
    room: Float[Tensor, "b 3"]
    outdoors: Bool[Tensor, " b"]
    textures: Float[Tensor, "b s c"]
    lights: Float[Tensor, "b l 3"]
    power: Float[Tensor, "b l"]
    half_distance: Float[Tensor, " b"]
    ambient: Float[Tensor, " b"]
    sky: Float[Tensor, "b 2 3"]
    alike: Bool[Tensor, "b k"]
    prototype: Int[Tensor, "b k"]
    interest: Float[Tensor, "b 3"]
    extent: Float[Tensor, "b 2"]
    projector: Float[Tensor, "b 3 4"]

    def single(self) -> "Scene":
        """Return the same scenes in single precision."""
        return Scene(*(t.float() if t.is_floating_point() else t for t in self))


def draw_scene(draws: Draws, lookalikes: bool, photographs: int, everyday: bool = False) -> Scene:
    """Build a batch of scenes.

    Args:
        draws: The random numbers.
        lookalikes: Whether two or three objects of each scene are copies of one.
        photographs: Number of photographs that may be textures of surfaces.
        everyday: Whether surfaces are as plain and pale as in a home.
    """
    extent = draws.between(2.0, 4.0, 2)
    height = draws.between(2.4, 3.2)
    outdoors = draws.chance(0.25)
    room = torch.cat([extent, 0.5 * height[:, None]], dim=1)
    room = torch.where(outdoors[:, None], room.new_tensor([14.0, 14.0, 8.0]), room)

    spacing = 0.34 * extent.mean(dim=1)
    half = _draw_sizes(draws, spacing)
    rotation = _draw_rotations(draws)
    prototype, present, alike = _draw_presence(draws, lookalikes)
    half = half.take_along_dim(prototype[..., None], dim=1)
    turned = rotation.take_along_dim(prototype[..., None, None], dim=1)
    wobble = draws.between(-0.25, 0.25, OBJECTS) * alike  # radians
    rotation = _about_z(wobble) @ turned

    interest, centre, half = _draw_places(draws, extent, spacing, half, rotation, present, alike)
    centre, rotation = _hang_panel(draws, room, half, centre, rotation, outdoors)
    centre = torch.where(present[..., None], centre, PARKED)

    textures = draw_textures(draws, WALLS, OBJECTS, photographs)
    if everyday:
        textures = soften_textures(draws, textures)
    rows = torch.arange(WALLS, device=room.device).expand(len(room), -1)
    rows = torch.cat([rows, WALLS + prototype], dim=1)
    lights, power, half_distance, ambient = _draw_lights(draws, room, outdoors)
    return Scene(
        linear=rotation.mT / half[..., None],
        centre=centre,
        half=half,
        room=room,
        outdoors=outdoors,
        textures=textures.take_along_dim(rows[..., None], dim=1),
        lights=lights,
        power=power,
        half_distance=half_distance,
        ambient=ambient,
        sky=_draw_sky(draws),
        alike=alike,
        prototype=torch.where(present, prototype, -1),
        interest=interest,
        extent=extent,
        projector=torch.eye(3, 4).to(extent).expand(len(extent), 3, 4),
    )


def _draw_sizes(draws: Draws, spacing: Float[Tensor, " b"]) -> Float[Tensor, "b k 3"]:
    """Draw half sizes, so small that each object stays within its cell of the lattice."""
    wide = draws.between(0.18, 0.36, OBJECTS, 2) * spacing[:, None, None]
    tall = draws.between(0.15, 0.60, OBJECTS)
    half = torch.cat([wide, tall[..., None]], dim=2)
    half[:, ELLIPSOIDS, 2] = half[:, ELLIPSOIDS, 0] * draws.between(0.7, 1.3, len(ELLIPSOIDS))
    half[:, CYLINDERS, 1] = half[:, CYLINDERS, 0]
    half[:, PANEL, 0] = 0.44 * spacing
    half[:, PANEL, 1] = 0.02
    half[:, PANEL, 2] = draws.between(0.3, 0.6)
    return half


def _about_z(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices about the vertical; angles in radians."""
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).reshape(
        *angle.shape, 3, 3
    )


def _about_x(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices about the x axis; angles in radians."""
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([one, zero, zero, zero, c, -s, zero, s, c], dim=-1).reshape(
        *angle.shape, 3, 3
    )


def _draw_rotations(draws: Draws) -> Float[Tensor, "b k 3 3"]:
    """Draw object-to-world rotations: objects are upright, and only ellipsoids are tilted."""
    yaw = draws.between(0.0, 2 * math.pi, OBJECTS)
    tilt = draws.between(-1.2, 1.2, OBJECTS)
    upright = torch.ones(OBJECTS, dtype=torch.bool, device=tilt.device)
    upright[ELLIPSOIDS] = False
    return _about_z(yaw) @ _about_x(tilt.masked_fill(upright, 0.0))


def _draw_presence(
    draws: Draws, lookalikes: bool
) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Draw which slot each object copies, which objects are present, and which are look-alikes.

    There are 3 to 8 objects, and the look-alikes on top of them.
    """
    count = draws.between(3.0, OBJECTS + 1).floor()
    present = draws.order(OBJECTS) < count[:, None]
    group = draws.between(0.0, len(TWINS)).long()
    prototype = torch.arange(OBJECTS, device=count.device).expand(len(count), -1)
    if not lookalikes:
        return prototype, present, torch.zeros_like(present)
    table = torch.arange(OBJECTS, device=count.device).repeat(len(TWINS), 1)
    member = torch.zeros_like(table, dtype=torch.bool)
    for row, slots in enumerate(TWINS):
        table[row, list(slots)] = slots[0]
        member[row, list(slots)] = True
    return table[group], present | member[group], member[group]


def _draw_places(
    draws: Draws,
    extent: Float[Tensor, "b 2"],
    spacing: Float[Tensor, " b"],
    half: Float[Tensor, "b k 3"],
    rotation: Float[Tensor, "b k 3 3"],
    present: Bool[Tensor, "b k"],
    alike: Bool[Tensor, "b k"],
) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b k 3"], Float[Tensor, "b k 3"]]:
    """Place the objects on a shuffled, jittered 3 x 3 lattice around the point of interest.

    Returns:
        The point of interest, the centres of the objects, and their half sizes (smaller if an
        object stands on another one).
    """
    middle = draws.between(-0.2, 0.2, 2) * extent
    cell = draws.order(9)[:, :OBJECTS]
    lattice = torch.stack([cell % 3 - 1, cell // 3 - 1], dim=-1).to(extent)
    lattice = lattice + draws.between(-0.1, 0.1, OBJECTS, 2)
    turn = _about_z(draws.between(0.0, math.pi))[:, :2, :2]
    places = (lattice @ turn.mT) * spacing[:, None, None] + middle[:, None]

    wish = draws.chance(0.5, len(STACKS))
    floor = torch.zeros_like(places[..., 0])
    half, places = half.clone(), places.clone()
    for i, (upper, lower) in enumerate(STACKS):
        stacked = wish[:, i] & present[:, lower] & ~alike[:, upper]
        low = torch.minimum(half[:, lower, 0], half[:, lower, 1]) * 0.8
        fit = torch.where(stacked, (low / half[:, upper, :2].amax(dim=1)).clamp(max=1.0), 1.0)
        half[:, upper] *= fit[:, None]
        places[:, upper] = torch.where(stacked[:, None], places[:, lower], places[:, upper])
        floor[:, upper] = torch.where(stacked, 2 * half[:, lower, 2], 0.0)

    # Half the vertical extent of an ellipsoid with axes s_i r_i is the norm of (s_i r_i . z). For
    # an upright object this is half its height.
    rise = (rotation[..., 2, :] * half).norm(dim=-1)
    centre = torch.cat([places, (floor + rise)[..., None]], dim=-1)
    interest = torch.cat([middle, draws.between(0.3, 0.9, 1)], dim=1)
    return interest, centre, half


def _hang_panel(
    draws: Draws,
    room: Float[Tensor, "b 3"],
    half: Float[Tensor, "b k 3"],
    centre: Float[Tensor, "b k 3"],
    rotation: Float[Tensor, "b k 3 3"],
    outdoors: Bool[Tensor, " b"],
) -> tuple[Float[Tensor, "b k 3"], Float[Tensor, "b k 3 3"]]:
    """Hang the panel on a wall in two of three rooms; otherwise it stands on the floor."""
    hang = draws.chance(0.67) & ~outdoors
    quarter = draws.between(0.0, 4.0).floor()
    shift = draws.between(-0.5, 0.5)
    level = draws.between(1.2, 1.6)
    turn = _about_z(quarter * (math.pi / 2))
    # In the frame of its wall, the panel is in the plane y = -distance and slides along x.
    odd = quarter.long() % 2 == 1
    width = torch.where(odd, room[:, 1], room[:, 0])
    distance = torch.where(odd, room[:, 0], room[:, 1]) - half[:, PANEL, 1] - 0.01
    place = torch.stack([shift * width, -distance, level], dim=1)
    place = (turn @ place[..., None])[..., 0]
    centre, rotation = centre.clone(), rotation.clone()
    centre[:, PANEL] = torch.where(hang[:, None], place, centre[:, PANEL])
    rotation[:, PANEL] = torch.where(hang[:, None, None], turn, rotation[:, PANEL])
    return centre, rotation


def _draw_lights(
    draws: Draws, room: Float[Tensor, "b 3"], outdoors: Bool[Tensor, " b"]
) -> tuple[Float[Tensor, "b l 3"], Float[Tensor, "b l"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Draw one to three lamps under the ceiling, or a distant sun outdoors.

    Returns:
        Positions, power, half distance, and ambient light; see `Scene`.
    """
    place = draws.between(-0.8, 0.8, LIGHTS, 2) * room[:, None, :2]
    level = draws.between(0.8, 0.95, LIGHTS) * 2 * room[:, None, 2]
    lights = torch.cat([place, level[..., None]], dim=-1)
    power = draws.between(0.7, 1.2, LIGHTS)
    count = draws.between(1.0, LIGHTS + 1).floor()
    ambient = draws.between(0.45, 0.65)
    slot = torch.arange(LIGHTS, device=room.device)
    count = torch.where(outdoors, 1.0, count)
    power = torch.where(slot < count[:, None], power / count[:, None].sqrt(), 0.0)
    lights = torch.where(outdoors[:, None, None], 4 * lights, lights)
    half_distance = torch.where(outdoors, 200.0, 4.0)
    return lights, power, half_distance, ambient


def _draw_sky(draws: Draws) -> Float[Tensor, "b 2 3"]:
    """Draw colours of the sky: a pale horizon and a deeper zenith."""
    zenith = draws.between(0.0, 1.0, 3) * draws.numbers.new_tensor([0.4, 0.3, 0.3])
    zenith = zenith + zenith.new_tensor([0.15, 0.35, 0.6])
    horizon = draws.between(0.75, 0.95, 1) + draws.between(-0.05, 0.05, 3)
    return torch.stack([horizon.expand(-1, 3), zenith], dim=1)
