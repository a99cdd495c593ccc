"""Values of the official models of any number of views, on weights and images that a recipe draws.

The recipe is that of the package's own `parameter`, with rules by name, so that layer scales,
tokens and positions are large enough to matter.
"""

import json
import math
import re
import zlib
from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.models import conformance

_TOKENS = (
    "camera_token",
    "register_token",
    "register_tokens",
    "cls_token",
    "mask_token",
    "pos_embed",
    "empty_pose_tokens",
)
_CONSTANTS = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
# Layers in front of an exponential.
_FACTORS = {
    "point_head.scratch.output_conv2.2.weight": 0.5,
    "point_head.proj.weight": 0.2,
    "downstream_head1.dpt.head.4.weight": 3,
    "downstream_head2.dpt.head.4.weight": 3,
}
# MASt3R's inventory has these modules under two names, with the same values.
_ALIAS = re.compile(r"(?<=\.dpt\.scratch\.)layer(\d)_rn\.")
# A field of view that stays positive, and a layer norm without "norm" in its name.
_OFFSETS = {r"\.fc_fov\.0\.bias$": 0.7, r"\.output_conv2_aux\.\d\.2\.weight$": 1.0}


def weights(name: str) -> dict[str, Tensor]:
    """Return the weights of a case, under their official names."""
    inventory = json.loads((conformance.FOLDER / f"{name}.keys.json").read_text())
    return {key: parameter(key, shape) for key, shape in inventory["keys"].items()}


@cache
def golden(name: str) -> dict[str, Tensor]:
    """Return what the official code computed."""
    return load_file(conformance.FOLDER / f"{name}.golden.safetensors")


def parameter(name: str, shape: list[int]) -> Tensor:
    """Return the weight of this name and shape; it depends on nothing else."""
    name = _ALIAS.sub(lambda found: f"layer_rn.{int(found[1]) - 1}.", name)
    last = name.rsplit(".", 1)[-1]
    if last in _CONSTANTS:
        return torch.tensor(_CONSTANTS[last]).reshape(shape)
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if last == "gamma":
        return torch.from_numpy(0.5 + 0.1 * draw).float()
    if last in _TOKENS:
        return torch.from_numpy(0.5 * draw).float()
    if re.search(r"\.resize_layers\.[01]\.weight$", name):
        return torch.from_numpy(draw / math.sqrt(shape[0])).float()
    value = conformance.parameter(name, shape) * _FACTORS.get(name, 1)
    return value + sum(o for pattern, o in _OFFSETS.items() if re.search(pattern, name))


def views(items: int, count: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Return a batch of images in [-1, 1] for each view."""
    return tuple(
        torch.stack([conformance.image(100 * (view + 1) + i, height, width) for i in range(items)])
        for view in range(count)
    )
