"""How a run moves the cameras relative to the clean run without any change; differentiable.

If the model predicts cameras, these are used. Otherwise a camera moves as the view's pointmap does.
PnP finds the camera in the clean pointmap. A weighted similarity takes the clean pointmap onto that
of the run (Umeyama, not reweighted, with the clean confidence as weights) and moves this camera.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Similarity, align, finite, norm_factor, pose_of_pointmap
from prob3r.measures.reference import intrinsics_of
from prob3r.models import Prediction
from prob3r.scenes import Views

STILL = 0.1
"""A camera that is turned by at most this many degrees counts as not turned, and has no axis."""


def twist(rotation: Float[Tensor, "b 3 3"], axis: Float[Tensor, "b 3"]) -> Float[Tensor, " b"]:
    """Return the angle in radians of the part of a rotation that is about an axis.

    For the quaternion `(w, v)` it is `2 atan2(v . axis, w)` (the swing-twist decomposition). It is
    differentiable everywhere except at half turns.
    """
    along = (_turn(rotation) * axis).sum(-1)
    return 2 * torch.atan2(along, 1 + _trace(rotation))


def motion(clean: Prediction, view: int) -> Callable[[Prediction], Similarity]:
    """Return a function that gives the motion of a view from the clean run to a run.

    The motion is in camera 1's frame. It is that of the model's own camera if the model predicts
    cameras, else that of the view's pointmap.
    """
    if clean.cameras is not None:
        before = clean.cameras.cam_to_world[:, view - 1].detach()

        def of_cameras(output: Prediction) -> Similarity:
            assert output.cameras is not None
            now = output.cameras.cam_to_world[:, view - 1]
            was = tiled(before, output)
            turn = now[:, :3, :3] @ was[:, :3, :3].mT
            shift = now[:, :3, 3] - torch.einsum("bij,bj->bi", turn, was[:, :3, 3])
            return Similarity(torch.ones_like(shift[:, 0]), turn, shift)

        return of_cameras
    points = clean.points[view - 1].detach()
    weights = clean.confidence[view - 1].detach() * finite(points)

    def of_points(output: Prediction) -> Similarity:
        source, weight = (tiled(t, output).flatten(1, 2) for t in (points, weights))
        target = output.points[view - 1]
        seen = finite(target).flatten(1)
        return align(source, target.flatten(1, 2), weight * seen)

    return of_points


def camera_before(views: Views, clean: Prediction, view: int) -> Float[Tensor, "b 4 4"]:
    """Return the pose of a view's camera in the clean run, in camera 1's frame.

    Raises:
        Prob3rError: The model predicts no cameras, and PnP finds none in a pointmap.
    """
    if clean.cameras is not None:
        return clean.cameras.cam_to_world[:, view - 1].detach()
    points = clean.points[view - 1].detach()
    intrinsics = intrinsics_of(views, clean.points[0].detach(), clean.confidence[0].detach())
    poses = []
    for own, matrix in zip(points, intrinsics[view - 1], strict=True):
        found = pose_of_pointmap(own, matrix)
        if found is None:
            raise Prob3rError(
                f"PnP finds no camera in the pointmap of view {view}; use a scalar of its points, "
                "such as depth."
            )
        poses.append(found.cam_to_world)
    return torch.stack(poses)


def camera(
    views: Views, clean: Prediction, view: int
) -> Callable[[Prediction], Float[Tensor, "b 4 4"]]:
    """Return a function that gives the pose of a view's camera in a run.

    The pose is in camera 1's frame and in the run's unit.
    """
    moved, before = motion(clean, view), camera_before(views, clean, view)

    def place(output: Prediction) -> Tensor:
        fit, was = moved(output), tiled(before, output)
        centre = fit.apply(was[:, None, :3, 3])[:, 0]
        top = torch.cat((fit.rotation @ was[:, :3, :3], centre[..., None]), -1)
        return torch.cat((top, was[:, 3:]), 1)

    return place


def unit_of(output: Prediction) -> Float[Tensor, " b"]:
    """Return the mean distance of all points of a run to camera 1."""
    return norm_factor(output.points, [finite(points) for points in output.points])


def axis_of(rotation: Float[Tensor, "b 3 3"], view: int) -> Float[Tensor, "b 3"]:
    """Return the axes of rotations. Raise Prob3rError if one has none."""
    turn = _turn(rotation.detach())
    sine = turn.norm(dim=-1, keepdim=True) / 2
    angle = torch.rad2deg(torch.atan2(sine[:, 0], (_trace(rotation) - 1) / 2))
    if not (angle > STILL).all():
        raise Prob3rError(
            f"Camera {view} is not turned, so its rotation has no axis; give an axis, or use "
            "another scalar such as translation."
        )
    return turn / (2 * sine)


def _turn(rotation: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3"]:
    """Return `2 sin(angle) axis`, from the antisymmetric part of a rotation."""
    part = rotation - rotation.mT
    return torch.stack((part[:, 2, 1], part[:, 0, 2], part[:, 1, 0]), -1)


def _trace(rotation: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    return torch.diagonal(rotation, dim1=-2, dim2=-1).sum(-1)


def tiled(tensor: Tensor, output: Prediction) -> Tensor:
    """Return a tensor over scenes, repeated as often as a run repeats the scenes."""
    copies = len(output.points[0]) // len(tensor)
    return tensor.to(output.points[0].device).repeat(copies, *[1] * (tensor.ndim - 1))
