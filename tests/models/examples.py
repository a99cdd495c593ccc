"""A small model of every architecture, with weights that leave nothing too small to matter."""

from collections.abc import Callable
from typing import TypeVar

import torch

from prob3r.models import (
    VGGT,
    CroCo,
    CroCoConfig,
    DepthAnything3,
    DepthAnything3Config,
    DUSt3R,
    DUSt3RConfig,
    MASt3R,
    MASt3RConfig,
    MultiViewModel,
    Pi3,
    Pi3Config,
    PosedDUSt3R,
    VGGTConfig,
)
from tests.models.conformance import nview

Kind = TypeVar("Kind", bound=MultiViewModel)

VGGT_CONFIG = VGGTConfig(
    (28, 28),
    14,
    width=16,
    depth=2,
    heads=2,
    registers=2,
    enc_depth=1,
    enc_heads=2,
    enc_registers=1,
    head_blocks=(0, 0, 1, 1),
    features=8,
    channels=(4, 4, 4, 4),
    cam_depth=1,
    cam_heads=2,
    cam_iterations=2,
)
PI3_CONFIG = Pi3Config(
    (28, 28),
    14,
    width=16,
    depth=2,
    heads=2,
    registers=2,
    enc_depth=1,
    enc_heads=2,
    enc_registers=1,
    head_width=24,
    head_depth=1,
    head_heads=2,
    cam_width=8,
)
DA3_CONFIG = DepthAnything3Config(
    (28, 28),
    14,
    width=16,
    heads=2,
    enc_depth=2,
    depth=2,
    head_blocks=(0, 0, 1, 1),
    features=8,
    channels=(4, 4, 4, 4),
    cam_depth=1,
    cam_heads=2,
)
DUST3R_CONFIG = DUSt3RConfig((28, 28), 14, 16, 1, 2, 24, 2, 2)
CROCO_CONFIG = CroCoConfig((28, 28), 14, 16, 1, 2, 24, 2, 2, mask_ratio=0.5)


def _vggt() -> VGGT:
    model = drawn(VGGT(VGGT_CONFIG))
    with torch.no_grad():
        # Fields of view stay positive, so that focal lengths are finite.
        model.camera_head.pose_branch.fc2.bias[7:] += 1
    return model


EXAMPLES: dict[str, Callable[[], MultiViewModel]] = {
    "croco": lambda: drawn(CroCo(CROCO_CONFIG)),
    "depth-anything-3": lambda: drawn(DepthAnything3(DA3_CONFIG)),
    "dust3r": lambda: drawn(DUSt3R(DUST3R_CONFIG)),
    "mast3r": lambda: drawn(MASt3R(MASt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, descriptors=5))),
    "pi3": lambda: drawn(Pi3(PI3_CONFIG)),
    "posed-dust3r": lambda: drawn(PosedDUSt3R(DUST3R_CONFIG)),
    "vggt": _vggt,
}
"""Of every registered architecture, by its name; all take images of 2x3 patches."""


def drawn(model: Kind) -> Kind:
    """Return the model in eval mode, with weights that a recipe draws by their names."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: nview.parameter(name, shape) for name, shape in shapes.items()})
    return model.eval()
