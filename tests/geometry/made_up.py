"""Made-up predictions that official code and ours were both given; see test_golden.py."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def rotation(axis_angle: Array) -> Array:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(axis_angle))
    x, y, z = axis_angle / max(angle, 1e-12)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def cameras(count: int, off: float, seed: int) -> tuple[Array, Array]:
    """Predicted and true poses `cam_to_world`; the predicted ones are off, and of another unit."""
    draw = np.random.RandomState(seed)
    true, predicted = np.tile(np.eye(4), (2, count, 1, 1))
    for i in range(count):
        true[i, :3, :3] = rotation(draw.normal(size=3))
        true[i, :3, 3] = draw.normal(size=3) + np.array([0.4 * i, 0, 0])
        predicted[i, :3, :3] = true[i, :3, :3] @ rotation(off * draw.normal(size=3))
        predicted[i, :3, 3] = 0.3 * (true[i, :3, 3] + off * draw.normal(size=3))
    return predicted, true


def clouds(seed: int) -> tuple[Array, Array]:
    """A predicted and a true cloud of two walls; the predicted one is moved, noisy, with strays."""
    draw = np.random.RandomState(seed)
    flat = draw.uniform(size=(700, 2))
    walls = np.concatenate(
        [
            np.column_stack([flat[:400, 0], flat[:400, 1], np.zeros(400)]),
            np.column_stack([np.zeros(300), flat[400:, 0], flat[400:, 1]]),
        ]
    )
    true = walls + 0.002 * draw.normal(size=walls.shape)
    kept = walls[draw.permutation(700)[:520]]
    predicted = kept @ rotation(np.array([0.02, -0.03, 0.01])).T + np.array([0.02, -0.01, 0.015])
    predicted += 0.006 * draw.normal(size=predicted.shape)
    predicted[:15] += 0.5 * draw.normal(size=(15, 3))
    return predicted, true


def depths(seed: int) -> tuple[Array, Array]:
    """Predicted and true depths of three views of 30x40; some are unknown, some very far."""
    draw = np.random.RandomState(seed)
    true = np.exp(draw.normal(1.5, 0.6, size=(3, 30, 40)))
    predicted = 0.4 * true * np.exp(0.15 * draw.normal(size=true.shape)) + 0.05
    true[draw.uniform(size=true.shape) < 0.1] = 0
    true[0, :2] = 90.0
    predicted[1, 3:6] *= 40
    return predicted, true


def pose_errors(seed: int) -> Array:
    """Pose errors of 60 pairs in degrees; some are failures."""
    draw = np.random.RandomState(seed)
    errors = draw.exponential(9.0, size=60)
    errors[[4, 17, 30]] = np.inf
    return errors


HOMOGRAPHY = np.array([[0.92, 0.11, 14.0], [-0.07, 1.05, -6.0], [1.5e-4, -8e-5, 1.0]])
