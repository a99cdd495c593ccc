"""The probe bank: one probe for each residual site, all of them stacked and run at once."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import unpatchify
from prob3r.models.heads import decode_points
from prob3r.sites import Site
from prob3r.trace import Record


@dataclass(frozen=True)
class ProbeConfig:
    """The shape of every probe of a bank.

    A probe is a LayerNorm and `depth` linear layers with GELU between them, over one patch of the
    residual stream; with a depth of 1 it is linear.

    Attributes:
        stream: Width of the residual stream.
        patch: Side of a patch, in pixels.
        depth: Linear layers.
        width: Of the layers between the first and the last.
    """

    stream: int
    patch: int
    depth: int = 5
    width: int = 128

    @property
    def kind(self) -> str:
        """`linear` or `mlp`."""
        return "linear" if self.depth == 1 else "mlp"


class Decoded(NamedTuple):
    """What a probe reads off its site.

    Attributes:
        points: Pointmap in camera 1's frame; its unit is the mean distance of the pair's true
            points to camera 1.
        confidence: Greater than 1.
    """

    points: Float[Tensor, "b h w 3"]
    confidence: Float[Tensor, "b h w"]


class ProbeBank(nn.Module):
    """Probes of several residual sites of one width.

    Args:
        sites: Names of the sites, one probe for each.
        config: The shape of the probes.
        backbone: Fingerprint of the model whose sites these are.
        seed: Of the initial weights; a probe's depend on it and its site alone.

    Raises:
        Prob3rError: A site is not a residual site, or there is none.
    """

    def __init__(
        self, sites: Sequence[str], config: ProbeConfig, backbone: str = "", seed: int = 0
    ):
        super().__init__()
        if not sites or any(Site.parse(site).probs for site in sites):
            raise Prob3rError("A probe bank needs at least one site, and residual sites only.")
        self.sites, self.config, self.backbone = tuple(sites), config, backbone
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
        """`linear` or `mlp`."""
        return self.config.kind

    def forward(
        self, streams: Float[Tensor, "s t d"], rows: slice = slice(None)
    ) -> Float[Tensor, "s t p2 4"]:
        """Return the raw output for each pixel of each patch.

        Args:
            streams: Patches of every site, or of those of `rows`.
            rows: Which probes to run, by their place in `sites`.
        """
        x = F.layer_norm(streams, streams.shape[-1:])
        x = x * self.norm_weight[rows] + self.norm_bias[rows]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[rows], F.gelu(x) if layer else x, weight[rows])
        return x.unflatten(-1, (-1, 4))

    def decode(self, record: Record) -> Decoded:
        """Return the pointmap and confidence that this site's probe reads off a record.

        Raises:
            Prob3rError: The bank has no probe for the record's site, or the widths differ.
        """
        if record.site not in self.sites:
            raise Prob3rError(f"This bank has no probe for '{record.site}'; see `bank.sites`.")
        if record.shape[-1] != self.config.stream:
            raise Prob3rError(
                f"'{record.site}' is {record.shape[-1]} wide here, and this bank's probes read "
                f"{self.config.stream}; it was trained on another model."
            )
        row = self.sites.index(record.site)
        b, n, d = record.shape
        with torch.no_grad():
            raw = self(record.float().reshape(1, b * n, d), slice(row, row + 1))
        rows, columns = record.grid
        patch = self.config.patch
        pixels = unpatchify(raw[0].unflatten(0, (b, n)), rows * patch, columns * patch)
        return Decoded(*decode_points(pixels))

    def header(self) -> dict[str, Any]:
        """Return what a file must hold beside the weights to build this bank again."""
        return {"sites": list(self.sites), "backbone": self.backbone} | asdict(self.config)
