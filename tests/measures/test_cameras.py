import torch

from prob3r.geometry import unproject
from prob3r.measures.cameras import camera2


def test_an_image_of_any_size_is_explained_by_the_camera_that_saw_it() -> None:
    """Large images are thinned out for PnP, which must not look like outliers."""
    generator = torch.Generator().manual_seed(0)
    for size in (48, 320):
        matrix = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
        depth = 2 + torch.rand(1, size, size, generator=generator)
        found = camera2(unproject(depth, matrix[None]), matrix)
        assert found is not None
        assert found.share > 0.99
