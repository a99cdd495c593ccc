"""The classical pipeline for two views: keypoints, fixed matches, essential matrix, triangulation.

SIFT keypoints (Lowe, IJCV 2004) are OpenCV's, of COLMAP's sensitivity; descriptors are compared by
the Hellinger kernel (RootSIFT: Arandjelovic and Zisserman, CVPR 2012), and matched where each is
the other's nearest by far. The relative pose follows with known intrinsics by poselib's LO-RANSAC
over five points, and the inliers' points by the middle between their rays.
How right the matches and the points are is told here, too.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid, median, project, transform
from prob3r.scenes.views import Pair, View

CONTRAST = 0.02  # over 3 layers an octave, as OpenCV counts it: COLMAP's 0.0067
RATIO = 0.8  # of the nearest descriptor's distance to the second nearest's (Lowe, section 7.1)
MAX_ERROR = 1.0  # Sampson distance of an inlier, in pixels
ENOUGH = 15  # inliers of a pose that counts as found, as in COLMAP
ITERATIONS = 10_000
NEAR = 1 / 32  # of view 1's longer side, up to which a match is right: 3 of 96 pixels


class Keypoints(NamedTuple):
    """What SIFT finds in an image.

    Attributes:
        pixels: Positions (x, y), pixel centres at integer coordinates.
        descriptors: Of unit length, to be compared by Euclidean distance.
    """

    pixels: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n 128"]


class Reconstruction(NamedTuple):
    """What the pipeline makes of a pair.

    Attributes:
        pixels1: Positions of the matches in view 1.
        pixels2: Positions of the matches in view 2.
        inliers: Which matches agree with the pose; none if none is found.
        pose2_to_1: Motion from camera 2's frame to camera 1's, with the baseline as the unit of
            length; None where too few matches agree with any.
        points: The inliers' points in camera 1's frame, in that unit.
    """

    pixels1: Float[Tensor, "m 2"]
    pixels2: Float[Tensor, "m 2"]
    inliers: Bool[Tensor, " m"]
    pose2_to_1: Float[Tensor, "4 4"] | None
    points: Float[Tensor, "k 3"]


def reconstruct(pair: Pair) -> Reconstruction:
    """Return the relative pose and the points of one pair, from fixed matches alone.

    Args:
        pair: A batch of one on the CPU, with intrinsics.

    Raises:
        Prob3rError: OpenCV is not installed, or intrinsics are not known.
    """
    matrix1, matrix2 = intrinsics_of(pair.view1), intrinsics_of(pair.view2)
    found1, found2 = (keypoints(view.image[0]) for view in (pair.view1, pair.view2))
    first, second = mutual_matches(found1.descriptors, found2.descriptors).unbind(1)
    pixels1, pixels2 = found1.pixels[first], found2.pixels[second]
    pose, inliers = pose_from_matches(pair, pixels1, pixels2)
    rays1, rays2 = rays(pixels1[inliers], matrix1), rays(pixels2[inliers], matrix2)
    points = rays1 if pose is None else triangulate(rays1, rays2, pose)
    return Reconstruction(pixels1, pixels2, inliers, pose, points)


def keypoints(image: Float[Tensor, "3 h w"]) -> Keypoints:
    """Return the SIFT keypoints of an image on the CPU; raise Prob3rError without OpenCV."""
    try:
        import cv2  # here, since it is an extra
    except ImportError as error:
        raise Prob3rError(
            "Fixed correspondences need OpenCV; install it with `pip install prob3r[studies]`."
        ) from error
    # Without the precise upscale every keypoint is a quarter of a pixel off.
    sift = cv2.SIFT.create(contrastThreshold=CONTRAST, enable_precise_upscale=True)
    grey = greyscale(image[None])[0].round().byte().numpy()
    found, descriptors = sift.detectAndCompute(grey, None)
    if not found:
        return Keypoints(torch.zeros(0, 2), torch.zeros(0, 128))
    shares = torch.nn.functional.normalize(torch.from_numpy(descriptors), p=1, dim=1)
    return Keypoints(torch.tensor([point.pt for point in found]), shares.sqrt())


def greyscale(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """Return the luma of images (ITU-R BT.601), from 0 to 255."""
    weights = torch.tensor([0.299, 0.587, 0.114]).to(image)
    return (torch.einsum("bchw,c->bhw", image, weights) + 1) * 127.5


def mutual_matches(
    one: Float[Tensor, "n d"], two: Float[Tensor, "m d"], ratio: float = RATIO
) -> Int[Tensor, "k 2"]:
    """Return which descriptors match: each the other's nearest, and clearly so both ways.

    Args:
        one: Descriptors of view 1.
        two: Descriptors of view 2.
        ratio: The nearest has to be nearer than this share of the second nearest's distance.
    """
    if min(len(one), len(two)) < 2:  # there is no second nearest
        return torch.zeros(0, 2, dtype=torch.long)
    distances = torch.cdist(one, two)
    there, clear = _nearest(distances, ratio)
    back, clear_back = _nearest(distances.mT, ratio)
    index = torch.arange(len(one))
    kept = index[clear & clear_back[there] & (back[there] == index)]
    return torch.stack([kept, there[kept]], dim=1)


def pose_from_matches(
    pair: Pair, pixels1: Float[Tensor, "m 2"], pixels2: Float[Tensor, "m 2"]
) -> tuple[Float[Tensor, "4 4"] | None, Bool[Tensor, " m"]]:
    """Return the motion from camera 2's frame to camera 1's, and the matches that agree with it.

    Args:
        pair: A batch of one, with intrinsics.
        pixels1: Positions of the matches in view 1, on the CPU.
        pixels2: Positions of the matches in view 2.

    Returns:
        The motion, with the baseline as the unit of length, or None where too few matches agree
        with any.
    """
    import poselib  # here, so that all that never solves for a pose runs without poselib

    none = torch.zeros(len(pixels1), dtype=torch.bool)
    if len(pixels1) < ENOUGH:
        return None, none
    pose, info = poselib.estimate_relative_pose(
        pixels1.double().numpy(),
        pixels2.double().numpy(),
        _camera(pair.view1),
        _camera(pair.view2),
        {"max_epipolar_error": MAX_ERROR, "max_iterations": ITERATIONS, "seed": 0},
    )
    inliers = torch.as_tensor(np.asarray(info["inliers"], dtype=bool))
    if inliers.sum() < ENOUGH or not np.isfinite(pose.Rt).all():
        return None, none
    view1_to_view2 = torch.as_tensor(np.vstack([pose.Rt, [0, 0, 0, 1]]))
    return invert_rigid(view1_to_view2[None])[0], inliers


def triangulate(
    rays1: Float[Tensor, "n 3"], rays2: Float[Tensor, "n 3"], pose2_to_1: Float[Tensor, "4 4"]
) -> Float[Tensor, "n 3"]:
    """Return the middle of the shortest segment between two rays, in camera 1's frame.

    Args:
        rays1: Directions in camera 1's frame.
        rays2: Directions in camera 2's frame.
        pose2_to_1: Motion from camera 2's frame to camera 1's.
    """
    centre = pose2_to_1[:3, 3].expand_as(rays1)
    turned = rays2 @ pose2_to_1[:3, :3].mT
    lengths = torch.linalg.lstsq(torch.stack([rays1, -turned], dim=-1), centre[..., None]).solution
    return (lengths[:, 0] * rays1 + lengths[:, 1] * turned + centre) / 2


def rays(pixels: Float[Tensor, "n 2"], matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "n 3"]:
    """Return the directions of pixels in the camera's frame, with z = 1, in double precision."""
    homogeneous = torch.nn.functional.pad(pixels.double(), (0, 1), value=1.0)
    directions: Tensor = homogeneous @ torch.linalg.inv(matrix.double()).mT
    return directions


def intrinsics_of(view: View) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of a batch of one; raise Prob3rError where they are not known."""
    if view.intrinsics is None:
        raise Prob3rError("The classical pipeline needs the intrinsics of both views.")
    return view.intrinsics[0]


def right_matches(
    pixels1: Float[Tensor, "m 2"], pixels2: Float[Tensor, "m 2"], pair: Pair
) -> Float[Tensor, ""]:
    """Return the share of one pair's matches that are right; 0 if there is none."""
    local2, known = true_points(pair.view2, pixels2)
    points2 = transform(local2[None], pair.view2_to_view1.double())
    true1 = project(points2, intrinsics_of(pair.view1)[None].double())[0]
    near = (true1 - pixels1).norm(dim=-1) <= NEAR * max(pair.view1.size)
    return near[known].double().mean().nan_to_num(0.0)


def point_error(
    points: Float[Tensor, "n 3"], true: Float[Tensor, "n 3"], unit: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Return how far points are from the truth at their best scale; NaN without a point."""
    if not len(points):
        return torch.full_like(unit, torch.nan)
    scale = median(true.norm(dim=-1) / points.norm(dim=-1))
    return median((scale * points - true).norm(dim=-1)) / unit


def true_points(
    view: View, pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """Return the true points at positions in one view, by the depth of the nearest pixel.

    Returns:
        The points in the camera's own frame, and which are known.
    """
    height, width = view.size
    column, row = pixels.round().long().unbind(-1)
    row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    depth = view.points[0, row, column, 2]
    return rays(pixels, intrinsics_of(view)) * depth[:, None], view.known[0, row, column]


def _nearest(
    distances: Float[Tensor, "n m"], ratio: float
) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return each row's nearest column, and whether it is so by far."""
    two, where = distances.topk(2, dim=1, largest=False)
    return where[:, 0], two[:, 0] < ratio * two[:, 1]


def _camera(view: View) -> dict[str, object]:
    matrix = intrinsics_of(view).tolist()
    params = [matrix[0][0], matrix[1][1], matrix[0][2], matrix[1][2]]
    height, width = view.size
    return {"model": "PINHOLE", "width": width, "height": height, "params": params}
