"""A scene small enough to reason about by hand, and random rigid motions."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import roma
import torch
from torch import Tensor

from prob3r import geometry

SIZE, FOCAL = 40, 40.0
NEAR, FAR, HALF_SIDE = 2.0, 4.0, 0.3


@dataclass
class Scene:
    """A square in front of a wall, seen by two parallel cameras `baseline` apart along x."""

    intrinsics: Tensor
    depth1: Tensor
    depth2: Tensor
    pose2_to_1: Tensor
    valid: Tensor

    @property
    def points1(self) -> Tensor:
        return geometry.unproject(self.depth1, self.intrinsics)

    @property
    def points2(self) -> Tensor:
        return geometry.transform(geometry.unproject(self.depth2, self.intrinsics), self.pose2_to_1)

    @property
    def truth(self) -> geometry.MatchTruth:
        return geometry.MatchTruth(
            self.points2, self.valid, self.depth1, self.valid, self.intrinsics
        )


def square_and_wall(baseline: float) -> Scene:
    centre = (SIZE - 1) / 2
    intrinsics = torch.tensor([[[FOCAL, 0, centre], [0, FOCAL, centre], [0, 0, 1]]])
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = baseline
    rays = geometry.unproject(torch.ones(1, SIZE, SIZE), intrinsics)

    def depth_from(x: float) -> Tensor:
        on_square = (rays[..., 0] * NEAR + x).abs().maximum((rays[..., 1] * NEAR).abs())
        return torch.where(on_square <= HALF_SIDE, NEAR, FAR)

    valid = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    return Scene(intrinsics, depth_from(0), depth_from(baseline), pose, valid)


def random_poses(b: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    pose = torch.eye(4, dtype=dtype).repeat(b, 1, 1)
    pose[:, :3, :3] = roma.random_rotmat(b, dtype=dtype, generator=generator)
    pose[:, :3, 3] = torch.randn(b, 3, dtype=dtype, generator=generator)
    return pose


@pytest.fixture
def scene() -> Scene:
    return square_and_wall(baseline=0.5)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
