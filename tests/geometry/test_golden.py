"""Metrics of protocols, held to what public implementations said of the same made-up predictions.

The values were printed by the code that each test names, at the commit that it names, run on
`made_up`. None of that code is here.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from prob3r.geometry import (
    align_depth,
    auc,
    auc_binned,
    cloud_errors,
    depth_errors,
    register,
    relative_pose_errors,
    share_below,
    trajectory_errors,
    transfer,
    transform,
)
from prob3r.geometry.depth_errors import DepthAlignment
from tests.geometry import made_up


def tensors(*arrays: made_up.Array) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


# yyfz/Pi3, branch evaluation, 97ce97b8: relpose/metric.py, se3_to_relative_pose_error and
# calculate_auc_np, which are those of VGGT's evaluation. By threshold: RRA, RTA, AUC.
POSES = {
    (7, 0.15, 0): {
        5: (0.047619047619047616, 0.14285714285714285, 0.0),
        15: (0.3333333333333333, 0.7142857142857143, 0.10793650793650794),
        30: (0.8571428571428571, 1.0, 0.38730158730158737),
    },
    (10, 0.05, 1): {
        5: (0.3111111111111111, 0.7777777777777778, 0.08),
        15: (1.0, 1.0, 0.6103703703703703),
        30: (1.0, 1.0, 0.8051851851851851),
    },
}


@pytest.mark.parametrize("case", POSES)
def test_relative_poses_as_pi3_and_vggt_measure_them(case: tuple[int, float, int]) -> None:
    predicted, true = tensors(*made_up.cameras(*case))
    errors = relative_pose_errors(predicted[None], true[None], folded=True)
    worst = torch.maximum(errors.rotation, errors.translation)
    for threshold, values in POSES[case].items():
        found = (
            share_below(errors.rotation, threshold),
            share_below(errors.translation, threshold),
            auc_binned(worst, threshold),
        )
        assert [float(value) for value in found] == pytest.approx(list(values), abs=1e-12)


def test_angles_of_pairs_as_pi3_and_vggt_measure_them() -> None:
    predicted, true = tensors(*made_up.cameras(7, 0.15, 0))
    errors = relative_pose_errors(predicted[None], true[None], folded=True)
    assert errors.rotation[0, :4].tolist() == pytest.approx(
        [24.139018605668824, 9.83736608001654, 19.21135333081795, 9.057092982079915], abs=1e-9
    )
    assert errors.translation[0, :4].tolist() == pytest.approx(
        [25.50430486385559, 9.772133628626342, 20.888856109548193, 4.57440201727901], abs=1e-9
    )


def test_the_exact_area_as_glue_factory_computes_it() -> None:
    # cvg/glue-factory, 2d17e3b3: gluefactory/utils/tools.py, cal_error_auc, which rounds to 1e-4.
    (errors,) = tensors(made_up.pose_errors(3))
    areas = [float(auc(errors, threshold)) for threshold in (5, 10, 20)]
    assert areas == pytest.approx([0.2270, 0.4290, 0.6474], abs=5e-5)


def test_trajectories_as_evo_measures_them() -> None:
    # MichaelGrupp/evo, 26d0953d: main_ape.ape and main_rpe.rpe, aligned with scale, steps of one
    # frame, root mean square, as pi3's relpose/evo_utils.py calls them.
    predicted, true = tensors(*made_up.cameras(12, 0.1, 2))
    errors = trajectory_errors(predicted[None], true[None])
    assert [float(e) for e in errors] == pytest.approx(
        [0.20013397385134726, 0.4679698113882408, 14.531856352366347], abs=1e-9
    )


def test_clouds_as_pi3_measures_them() -> None:
    # yyfz/Pi3, branch evaluation, 97ce97b8: mv_recon/utils.py, accuracy and completion, after
    # registration_icp (point to point, radius 0.1) and estimate_normals of Open3D 0.20.0.
    predicted, true = tensors(*made_up.clouds(5))
    motion = register(predicted, true, 0.1)
    assert motion[0].tolist() == pytest.approx(
        [0.9994581264116899, 0.01011271734832792, 0.03132389658821249, -0.021094152192021168],
        abs=1e-9,
    )
    errors = cloud_errors(transform(predicted[None], motion[None])[0], true)
    assert list(errors) == pytest.approx(
        [
            0.027891869173212014,
            0.00926918420548897,
            0.015879897729980347,
            0.011233877158561117,
            (0.9829223029195019 + 0.9967425596128047) / 2,
            (0.9997475876386702 + 0.999768613205072) / 2,
        ],
        abs=1e-9,
    )


# yyfz/Pi3, branch evaluation, 97ce97b8: utils/depth.py, depth_evaluation with max_depth and
# post_clip_max of 70: AbsRel, and the share of ratios below 1.25.
DEPTHS: dict[DepthAlignment, tuple[float, float]] = {
    "none": (0.9959546243548302, 0.0),
    "median": (0.6953855654891021, 0.8471035361289978),
    "scale": (0.94954408788776, 0.0),
    "scale and shift": (0.6927529456829004, 0.8391895890235901),
}


@pytest.mark.parametrize("how", DEPTHS)
def test_depths_as_pi3_measures_them(how: DepthAlignment) -> None:
    predicted, true = tensors(*made_up.depths(4))
    counted = (true > 0) & (true < 70)
    predicted, true = predicted[counted], true[counted]
    errors = depth_errors(predicted, true, align_depth(predicted, true, how), farthest=70)
    assert [float(e) for e in errors] == pytest.approx(list(DEPTHS[how]), abs=1e-6)


def test_homographies_as_dense_matching_applies_them() -> None:
    # PruneTruong/DenseMatching, b054fe9f: datasets/geometric_matching_datasets/hpatches.py, the
    # flow from image 3 (150x100 pixels) to image 1 (160x120), both scaled to 240x240.
    expected = {
        (200, 50): (-22.000457763671875, 17.532447814941406),
        (120, 120): (-30.326980590820312, -4.946662902832031),
        (60, 200): (-37.33959197998047, -28.555862426757812),
    }
    (back,) = tensors(np.linalg.inv(made_up.HOMOGRAPHY))
    for (x, y), flow in expected.items():
        at = torch.tensor([x * 150 / 240, y * 100 / 240], dtype=torch.float64)
        moved = transfer(at, back) * torch.tensor([240 / 160, 240 / 120])
        assert (moved - torch.tensor([x, y])).tolist() == pytest.approx(flow, abs=1e-4)
