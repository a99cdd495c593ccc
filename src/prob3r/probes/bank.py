"""The probe bank: one probe for each residual site, all of them stacked."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.sites import Site
from prob3r.probes.reader import BANK, SiteReader


@dataclass(frozen=True)
class ProbeConfig:
    """The shape of every probe of a bank.

    A probe is a LayerNorm and `depth` linear layers with GELU between them, over one patch of the
    residual stream; with a depth of 1 it is linear.

    Attributes:
        stream: Width of the residual stream.
        patch: Side of a patch, in pixels.
        depth: Number of linear layers.
        width: Width of the hidden layers.
    """

    stream: int
    patch: int
    depth: int = 5
    width: int = 128

    @property
    def kind(self) -> str:
        """`linear` or `mlp`."""
        return "linear" if self.depth == 1 else "mlp"


class ProbeBank(SiteReader, reader=BANK):
    """Probes of several residual sites of one width.

    Args:
        sites: Names of the sites, one probe for each.
        config: The shape of the probes.
        backbone: Fingerprint of the model whose sites these are.
        seed: Seed of the initial weights. A probe's weights depend on it and on its site alone.

    Raises:
        Prob3rError: A site is not a residual site, or there is none.
    """

    def __init__(
        self, sites: Sequence[str], config: ProbeConfig, backbone: str = "", seed: int = 0
    ):
        super().__init__(sites, config.stream, config.patch, backbone)
        self.config = config
        hidden = [config.width] * (config.depth - 1)
        widths = [config.stream, *hidden, 4 * config.patch**2]
        s = len(self.sites)
        self.norm_weight = nn.Parameter(torch.ones(s, 1, config.stream))
        self.norm_bias = nn.Parameter(torch.zeros(s, 1, config.stream))
        shapes = list(pairwise(widths))
        self.weights = nn.ParameterList(torch.empty(s, i, o) for i, o in shapes)
        self.biases = nn.ParameterList(torch.zeros(s, 1, o) for _, o in shapes)
        for row, site in enumerate(self.sites):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {site}".encode()))
            for weight in self.weights:
                bound = weight.shape[1] ** -0.5
                nn.init.uniform_(weight.data[row], -bound, bound, generator)

    @property
    def kind(self) -> str:
        """`linear` or `mlp`, or for a control `random` or `encoder`."""
        if self.random_seed is not None:
            return "random"
        return "encoder" if Site.parse(self.sites[0]).stack == "enc" else self.config.kind

    def read(
        self, rows: Sequence[Tensor], streams: Float[Tensor, "s t d"]
    ) -> Float[Tensor, "s t p2 4"]:
        """Return the raw output for each pixel of each patch; see `SiteReader.read`."""
        norm_weight, norm_bias, *layers = rows
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        # In the file the channels of a pixel are next to each other.
        weights[-1], biases[-1] = (
            t.unflatten(-1, (-1, 4)).mT.flatten(-2) for t in (weights[-1], biases[-1])
        )
        x = F.layer_norm(streams, streams.shape[-1:]) * norm_weight + norm_bias
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            # Added after the product, the bias can be fused by a compiler with the next GELU.
            x = (F.gelu(x) if layer else x) @ weight + bias
        return x.unflatten(-1, (4, -1)).mT

    @classmethod
    def from_header(cls, description: Mapping[str, Any]) -> "ProbeBank":
        """Return the bank that a header describes, without its weights."""
        config = ProbeConfig(**{f.name: description[f.name] for f in fields(ProbeConfig)})
        return cls(description["sites"], config, description["backbone"])

    def header(self) -> dict[str, Any]:
        """Return what a file must hold besides the weights to build this bank again."""
        control = {} if self.random_seed is None else {"random_seed": self.random_seed}
        origin = {"sites": list(self.sites), "backbone": self.backbone}
        return origin | asdict(self.config) | control
