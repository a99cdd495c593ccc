"""Geometry of views and pointmaps: pure, batched tensor functions that know no model and no file.

Conventions: OpenCV cameras (x right, y down, z forward), depth along z, pixel centres at integer
coordinates, pixel positions (x, y), pinhole intrinsics without skew in pixels, `cam_to_world`
matrices of 4x4. Pointmaps are `(b, h, w, 3)`, of both views in camera 1's frame unless a name
says `local`.

Call these functions outside autocast, and with float32 matrix products in full precision
(PyTorch's default), not in TF32: lower precision makes the results wrong.
"""

from prob3r.geometry.alignment import Similarity, align, align_robust
from prob3r.geometry.cameras import (
    crop_intrinsics,
    focal_from_pointmap,
    project,
    relative_pose,
    resize_intrinsics,
    rotation_angle,
    rotation_between,
)
from prob3r.geometry.clouds import CloudErrors, PointTree, cloud_errors, normals, register
from prob3r.geometry.correspondence import cycle_consistency, end_point_error, entropy, pck
from prob3r.geometry.covisibility import CoarseView, seen_share
from prob3r.geometry.depth_errors import (
    DepthAlignment,
    DepthErrors,
    DepthFit,
    align_depth,
    depth_errors,
)
from prob3r.geometry.epipolar import (
    epipolar_distance,
    essential,
    fundamental,
    sampson_distance,
)
from prob3r.geometry.estimation import (
    central_intrinsics,
    intrinsics_from_pointmap,
    pose_of_pointmap,
)
from prob3r.geometry.matches import (
    MatchTruth,
    PatchMatches,
    PixelMatches,
    central_matches,
    covisible,
    overlap,
    patch_matches,
    pixel_matches,
)
from prob3r.geometry.metrics import (
    Interval,
    PoseAndShape,
    auc,
    bootstrap,
    bootstrap_interval,
    median,
    percentiles,
    pointmap_error,
    pose_and_shape,
    pose_error,
)
from prob3r.geometry.pointmaps import (
    central_pixels,
    finite,
    invert_rigid,
    mean_depth,
    norm_factor,
    normal_map,
    normalise,
    patch_centres,
    patch_grid,
    patch_of_pixels,
    patchify,
    pixel_grid,
    transform,
    unpatchify,
    unproject,
)
from prob3r.geometry.pose import (
    PnPPose,
    pnp_pose,
    pose_from_pointmap,
    rotation_error,
    scale_error,
    translation_error,
)
from prob3r.geometry.relative_poses import (
    RelativePoseErrors,
    auc_binned,
    relative_pose_errors,
    share_below,
)
from prob3r.geometry.trajectories import TrajectoryErrors, trajectory_errors
from prob3r.geometry.transfer import (
    PixelPairs,
    matches_by_descriptors,
    matches_by_points,
    reciprocal_matches,
    transfer,
)

__all__ = [
    "CloudErrors",
    "CoarseView",
    "DepthAlignment",
    "DepthErrors",
    "DepthFit",
    "Interval",
    "MatchTruth",
    "PatchMatches",
    "PixelMatches",
    "PixelPairs",
    "PnPPose",
    "PointTree",
    "PoseAndShape",
    "RelativePoseErrors",
    "Similarity",
    "TrajectoryErrors",
    "align",
    "align_depth",
    "align_robust",
    "auc",
    "auc_binned",
    "bootstrap",
    "bootstrap_interval",
    "central_intrinsics",
    "central_matches",
    "central_pixels",
    "cloud_errors",
    "covisible",
    "crop_intrinsics",
    "cycle_consistency",
    "depth_errors",
    "end_point_error",
    "entropy",
    "epipolar_distance",
    "essential",
    "finite",
    "focal_from_pointmap",
    "fundamental",
    "intrinsics_from_pointmap",
    "invert_rigid",
    "matches_by_descriptors",
    "matches_by_points",
    "mean_depth",
    "median",
    "norm_factor",
    "normal_map",
    "normalise",
    "normals",
    "overlap",
    "patch_centres",
    "patch_grid",
    "patch_matches",
    "patch_of_pixels",
    "patchify",
    "pck",
    "percentiles",
    "pixel_grid",
    "pixel_matches",
    "pnp_pose",
    "pointmap_error",
    "pose_and_shape",
    "pose_error",
    "pose_from_pointmap",
    "pose_of_pointmap",
    "project",
    "reciprocal_matches",
    "register",
    "relative_pose",
    "relative_pose_errors",
    "resize_intrinsics",
    "rotation_angle",
    "rotation_between",
    "rotation_error",
    "sampson_distance",
    "scale_error",
    "seen_share",
    "share_below",
    "trajectory_errors",
    "transfer",
    "transform",
    "translation_error",
    "unpatchify",
    "unproject",
]
