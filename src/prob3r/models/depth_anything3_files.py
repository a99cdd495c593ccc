"""Readers of official Depth Anything 3 files: weights only; the sizes follow from their shapes.

A `.pth`, `.pt` or `.safetensors` file holds the state dict, whose keys may begin with `model.`. A
hub folder adds a `config.json` that names the model.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.architectures import Published, Shapes, register
from prob3r.models.depth_anything3 import DepthAnything3, DepthAnything3Config
from prob3r.models.dinov2 import HEAD_WIDTH

_PREFIX = "model."
_SMALL = "da3-small"
_BACKBONE = "backbone.pretrained"

# The first three of four levels of rays, which only training needs; a token of DINOv2's
# pretraining.
_UNUSED = re.compile(
    r"head\.scratch\.output_conv[12]_aux\.[0-2]\..*|backbone\.pretrained\.mask_token"
)


class DepthAnything3Files(Published):
    """Reads the files that the authors of Depth Anything 3 publish."""

    names: ClassVar[Mapping[str, Any]] = {"depth-anything/DA3-SMALL": DepthAnything3Config()}

    def of_weights(self, weights: Mapping[str, Tensor]) -> DepthAnything3Config | None:
        """Return the configuration that follows from the shapes of weights."""
        plain = _without_prefix(weights)
        return _sizes(plain) if any(name.startswith(_BACKBONE) for name in plain) else None

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> DepthAnything3Config | None:
        """Return the configuration of a hub folder; that of the small one without weights.

        The name alone says what the model is; a copy of the official configuration may follow it.
        """
        if not str(values.get("model_name", "")).startswith("da3"):
            return None
        if unknown := sorted(values.keys() - {"model_name", "config"}):
            raise Prob3rError(f"{origin} has arguments that are not known: {', '.join(unknown)}.")
        name = values["model_name"]
        config = None if weights is None else self.of_weights(weights)
        if config is None and weights is not None:
            raise Prob3rError(
                f"{origin} is of a Depth Anything 3, and the weights beside it are not."
            )
        if config is None and name != _SMALL:
            raise Prob3rError(f"{origin} names {name}; without its weights only {_SMALL} is known.")
        found = DepthAnything3Config() if config is None else config
        if (name == _SMALL) != (found.width == DepthAnything3Config.width):
            raise Prob3rError(f"{origin} names {name}; its weights are {found.width} wide.")
        return found

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights without their prefix, and without those that only training needs."""
        return {k: v for k, v in _without_prefix(weights).items() if not _UNUSED.fullmatch(k)}


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}


def _sizes(weights: Mapping[str, Tensor]) -> DepthAnything3Config:
    """Return the sizes that follow from the shapes of official weights.

    All other sizes are those of the official code: the heads of the backbone are 64 wide, the
    camera encoder has 16 of them, and the head reads every quarter of the blocks in which views
    meet.
    """
    shapes = Shapes(weights, "Depth Anything 3")
    size, count = shapes.size, shapes.count
    width, blocks = size(f"{_BACKBONE}.cls_token", 2), count(f"{_BACKBONE}.blocks")
    alone = sum(f"{_BACKBONE}.blocks.{i}.attn.q_norm.weight" not in weights for i in range(blocks))
    pairs, odd = divmod(blocks - alone, 2)
    if odd or pairs < 4 or pairs % 4:
        raise Prob3rError(
            f"The backbone has {blocks - alone} blocks with query norms; there must be 8, or a "
            "multiple."
        )
    patch = size(f"{_BACKBONE}.patch_embed.proj.weight", 2)
    side = math.isqrt(max(size(f"{_BACKBONE}.pos_embed", 1) - 1, 0)) * patch
    quarter = pairs // 4
    return DepthAnything3Config(
        image_size=(side, side),
        patch=patch,
        width=width,
        heads=max(width // HEAD_WIDTH, 1),
        enc_depth=alone,
        depth=pairs,
        head_blocks=(quarter - 1, 2 * quarter - 1, 3 * quarter - 1, pairs - 1),
        features=size("head.scratch.layer1_rn.weight", 0),
        channels=(
            size("head.projects.0.weight", 0),
            size("head.projects.1.weight", 0),
            size("head.projects.2.weight", 0),
            size("head.projects.3.weight", 0),
        ),
        cam_depth=count("cam_enc.trunk"),
    )


register(DepthAnything3, DepthAnything3Files())
