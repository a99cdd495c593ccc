"""Validation of a backbone during training, on held-out rooms and on real photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import PoseAndShape, median, pnp_pose, rotation_angle, rotation_error
from prob3r.models import Model
from prob3r.rooms import Rooms
from prob3r.scenes.framing import Framing
from prob3r.scenes.shuffled import shuffled
from prob3r.scenes.views import Pair, Views
from prob3r.training.photometry import photographed

_SEED = 2**20  # of the photometry, which is the same at every validation


class Validation:
    """Held-out rooms and real pairs, and the errors that are measured on them.

    The shuffled control is measured from the start. A model that ignores view 1 has equal errors on
    true and on shuffled pairs, and the training loss does not show this.

    Args:
        size: Side of the square images in pixels.
        pairs: Number of staged rooms.
        device: Where to render and to run.
        batch: Pairs at once.
        photographs: A folder of photographs for the surfaces of everyday rooms.
        everyday: Whether to measure on everyday rooms too, half as many.
        real: A folder of folders with real pairs whose poses are known.

    Raises:
        Prob3rError: A real pair cannot be read, its pose is unknown, or there is none.
    """

    def __init__(
        self,
        size: int,
        pairs: int,
        device: torch.device | str,
        batch: int = 64,
        photographs: Path | None = None,
        everyday: bool = False,
        real: Path | None = None,
    ):
        self.batches, self.everyday = held_out(size, pairs, device, batch, photographs, everyday)
        self.real = [] if real is None else _read(real, size, device)

    def measure(self, model: Model) -> dict[str, float]:
        """Return medians over pairs of the errors, and of the rotation error of the control."""
        # To compile the blocks again for this batch would take longer than to run them eagerly.
        # No inference mode: libraries keep tensors made in it, and later gradients fail on them.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            measured = _measure(model, self.batches)
            if self.everyday:
                found = _measure(model, self.everyday)
                measured |= {f"everyday_{name}": value for name, value in found.items()}
            if self.real:
                measured |= _measure_real(model, self.real)
            return measured


def held_out(
    size: int,
    scenes: int,
    device: torch.device | str,
    batch: int,
    photographs: Path | None,
    everyday: bool,
    views: int = 2,
) -> tuple[list[Any], list[Any]]:
    """Return batches of held-out staged rooms, and of half as many everyday rooms, or of none.

    The arguments are those of `Validation`, and `views`, the number of views of a room.
    """
    square = (size, size)
    rooms = Rooms("validation", square, device=device, compile=False, views=views)
    staged = _rendered(rooms, scenes, batch)
    if not everyday:
        return staged, []
    rooms = Rooms(
        "validation",
        square,
        photographs=photographs,
        device=device,
        compile=False,
        style="everyday",
        views=views,
    )
    generator = torch.Generator().manual_seed(_SEED)
    plain = _rendered(rooms, scenes // 2, batch)
    return staged, [photographed(scenes, generator) for scenes in plain]


def _rendered(rooms: Rooms[Views], count: int, batch: int) -> list[Views]:
    return [rooms.batch(range(i, min(i + batch, count))) for i in range(0, count, batch)]


def _read(folder: Path, size: int, device: torch.device | str) -> list[Pair]:
    """Read all pairs of a folder, each in both orders of its views."""
    framing = Framing(size, "square", patch=1)
    found = [
        Pair.from_folder(path.parent, framing).to(device)
        for path in sorted(folder.glob("*/pair.json"))
    ]
    if not found:
        raise Prob3rError(f"{folder} holds no pair; give a folder of folders with a pair.json.")
    for pair in found:
        if not pair.has_poses or pair.view1.intrinsics is None or pair.view2.intrinsics is None:
            raise Prob3rError(
                f"{folder / pair.names[0]} lacks cameras; validation needs intrinsics and poses."
            )
    return [way for pair in found for way in (pair, pair.swap())]


def _measure(model: Model, batches: list[Pair]) -> dict[str, float]:
    true = [_errors(model, pair.view1.image, pair) for pair in batches]
    errors = PoseAndShape(*(torch.cat(column) for column in zip(*true, strict=True)))
    others = [(shuffled(pair).pair.view1.image, pair) for pair in batches]
    control = torch.cat([_errors(model, *other).rotation_error for other in others])
    return {
        "pointmap_error1": median(errors.pointmap_error1).item(),
        "pointmap_error2": median(errors.pointmap_error2).item(),
        "rotation_error": median(errors.rotation_error).item(),
        "translation_error": median(errors.translation_error).item(),
        "shuffled_rotation_error": median(control).item(),
    }


def _errors(model: Model, images1: Tensor, pair: Pair) -> PoseAndShape:
    """Return all errors of a batch if other images are given in place of its view 1."""
    output = model(images1, pair.view2.image)
    return pair.errors_of(output.points)


def _measure_real(model: Model, pairs: Sequence[Pair]) -> dict[str, float]:
    """Return medians of the rotation error of camera 2, found by PnP in its pointmap.

    The control takes view 1 from another scene, half of the list further on. The last number is
    the error of a model that puts camera 2 where camera 1 is.
    """
    others = [pairs[(i + len(pairs) // 2) % len(pairs)] for i in range(len(pairs))]
    still = [rotation_angle(pair.view2_to_view1[:, :3, :3]) for pair in pairs]
    true = [_rotation_error(model, pair.view1.image, pair) for pair in pairs]
    control = [
        _rotation_error(model, other.view1.image, pair)
        for pair, other in zip(pairs, others, strict=True)
    ]
    return {
        "real_rotation_error": median(torch.cat(true)).item(),
        "real_shuffled_rotation_error": median(torch.cat(control)).item(),
        "real_still_rotation_error": median(torch.cat(still)).item(),
    }


def _rotation_error(model: Model, images1: Tensor, pair: Pair) -> Float[Tensor, " 1"]:
    """Return camera 2's error in degrees; 180 if PnP finds no camera in the pointmap."""
    points = model(images1, pair.view2.image).points[1][0]
    assert pair.view2.intrinsics is not None
    every = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    pose = pnp_pose(points, pair.view2.intrinsics[0], every)
    if pose is None:
        return torch.full((1,), 180.0)
    rotation = pose.cam_to_world[None, :3, :3].to(pair.view2_to_view1)
    return rotation_error(rotation, pair.view2_to_view1[:, :3, :3]).cpu()
