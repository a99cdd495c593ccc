"""Values of the official DUSt3R on weights and images that a recipe draws.

`NAME.keys.json` holds the model string and the shape of every weight, as an official checkpoint
carries them. `NAME_BxHxW.golden.safetensors` holds what the official code computed from it: the
pointmaps and confidences, and for `tiny_linear` every decoder site and the cross-attention.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from prob3r.models import DUSt3R, parse_model_string
from prob3r.models.checkpoints import Checkpoint

FOLDER = Path(__file__).parent
CASES = ("tiny_linear", "tiny_linear_landscape", "tiny_dpt")


@dataclass(frozen=True)
class Case:
    """A model string, the shapes of its weights, and what the official code made of two views."""

    model_string: str
    keys: dict[str, list[int]]
    golden: dict[str, Tensor]

    @classmethod
    def read(cls, name: str) -> "Case":
        inventory = json.loads((FOLDER / f"{name}.keys.json").read_text())
        (file,) = FOLDER.glob(f"{name}_[0-9]x*.golden.safetensors")
        return cls(inventory["model"], inventory["keys"], load_file(file))

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter(name, shape) for name, shape in self.keys.items()}

    def model(self) -> DUSt3R:
        config = parse_model_string(self.model_string).to_dict()
        card = {"architecture": "dust3r", "config": config}
        return Checkpoint(Path("recipe"), card, self.weights()).build()

    def images(self) -> tuple[Tensor, Tensor]:
        b, h, w, _ = self.golden["pts3d_1"].shape
        view1, view2 = (
            torch.stack([image(seed + i, h, w) for i in range(b)]) for seed in (100, 200)
        )
        return view1, view2


def parameter(name: str, shape: list[int]) -> Tensor:
    """Return the weight of this name and shape; it depends on nothing else."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return torch.from_numpy(mean + 0.1 * draw).float()
    # Transposed convolutions keep their inputs first.
    transposed = ".dpt.act_postprocess." in name and name.endswith("1.weight")
    fan_in = shape[0] if transposed else int(np.prod(shape[1:]))
    gain = 1.0
    if name.endswith(("head1.proj.weight", "head2.proj.weight")):
        gain = 0.5  # keeps depth, which is exponential, in a sane range
    elif name.endswith("dpt.head.4.weight"):
        gain = 0.05
    return torch.from_numpy(gain * (draw / np.sqrt(fan_in))).float()


def image(seed: int, height: int, width: int) -> Tensor:
    """Return a (3, height, width) image in [-1, 1], smooth with some noise."""
    rng = np.random.RandomState(seed)
    coarse = torch.from_numpy(rng.standard_normal((1, 3, 6, 6)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal((3, height, width)).astype(np.float32))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0]
    return (0.5 * smooth + 0.1 * noise).clamp(-1, 1)
