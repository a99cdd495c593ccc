"""Lenses: the model's own head read at any decoder site, with or without a learned affine map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models import Model
from prob3r.models.layers import layer_norm
from prob3r.models.protocol import LensHead
from prob3r.models.sites import Site
from prob3r.probes.reader import SiteReader


class Lens(SiteReader, reader="lens"):
    """Reads sites through the last norm and the linear head of the model itself.

    An untrained lens is the logit lens (nostalgebraist, 2020): the model's output if the later
    blocks added nothing. The stream of a site first goes through an affine map, which starts as
    the identity. If the map is trained like a probe, the lens is the tuned lens (Belrose et al.,
    2023). It can read sites that use another basis or another scale than the head expects.

    Args:
        sites: Names of decoder sites.
        stream: Width of the decoders.
        patch: Side of a patch, in pixels.
        backbone: Fingerprint of the model whose sites these are.
    """

    def __init__(self, sites: Sequence[str], stream: int, patch: int, backbone: str = ""):
        super().__init__(sites, stream, patch, backbone)
        s, outputs = len(self.sites), 4 * patch**2
        self.weight = nn.Parameter(torch.zeros(s, stream, stream))
        self.bias = nn.Parameter(torch.zeros(s, 1, stream))
        self.norm = layer_norm(stream).requires_grad_(False)
        self.head_weight, self.head_bias = (
            nn.Parameter(torch.zeros(2, rows, outputs), requires_grad=False) for rows in (stream, 1)
        )
        self.views = [Site.parse(site).view - 1 for site in self.sites]

    @classmethod
    def of(cls, model: Model, backbone: str = "") -> "Lens":
        """Return the untrained lens of all sites of the stack that a model's linear heads read.

        Raises:
            Prob3rError: The model does not say that it has linear heads.
        """
        lens_head = getattr(model, "lens_head", None)
        if lens_head is None:
            raise Prob3rError(
                f"A lens reads through a model's own linear head, and this {type(model).__name__} "
                "has no `lens_head`; train mlp or linear probes."
            )
        read: LensHead = lens_head()
        width = model.stacks[read.stack].width
        sites = [site for site in model.sites() if Site.parse(site).stack == read.stack]
        lens = cls(sites, width, model.config.patch, backbone)
        lens.norm.load_state_dict(read.norm.state_dict())
        for view in range(2):
            head = read.heads[min(view, len(read.heads) - 1)]
            lens.head_weight.data[view] = head.weight.T
            lens.head_bias.data[view] = head.bias
        return lens.to(next(model.parameters()).device)

    @property
    def kind(self) -> str:
        """`logit` while the affine maps are the identity, otherwise `tuned`."""
        return "tuned" if self.weight.any() or self.bias.any() else "logit"

    def stacks(self) -> list[Tensor]:
        """Return every site's affine map and the head of its view."""
        return [self.weight, self.bias, self.head_weight[self.views], self.head_bias[self.views]]

    def read(
        self, rows: Sequence[Tensor], streams: Float[Tensor, "s t d"]
    ) -> Float[Tensor, "s t p2 4"]:
        """Return the raw output for each pixel of each patch; see `SiteReader.read`."""
        weight, bias, head_weight, head_bias = rows
        x = self.norm(streams + (streams @ weight + bias))
        return (x @ head_weight + head_bias).unflatten(-1, (4, -1)).mT

    @classmethod
    def from_header(cls, description: Mapping[str, Any]) -> "Lens":
        """Return the lens that a header describes, without its weights."""
        return cls(*(description[name] for name in ("sites", "stream", "patch", "backbone")))

    def header(self) -> dict[str, Any]:
        """Return what a file must hold besides the weights to build this lens again."""
        return {
            "reader": "lens",
            "sites": list(self.sites),
            "backbone": self.backbone,
            "stream": self.stream,
            "patch": self.patch,
        }
