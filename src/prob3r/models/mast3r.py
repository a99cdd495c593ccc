"""MASt3R: a DUSt3R that also predicts a descriptor of every pixel, for matching.

Architecture: Leroy et al., "Grounding Image Matching in 3D with MASt3R", ECCV 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.dust3r import DUSt3R, DUSt3RConfig
from prob3r.models.heads import DescriptorHead
from prob3r.models.protocol import Prediction


@dataclass(frozen=True)
class MASt3RConfig(DUSt3RConfig):
    """The shape of a MASt3R: that of a DUSt3R, and what follows.

    Attributes:
        head: `catmlp+dpt`, the only one.
        descriptors: Channels of a descriptor.
        least_confidence: Lower bound of the confidence of a descriptor, 0 or 1. The confidence is
            this number plus an exponential.
    """

    NAME: ClassVar[str] = "MASt3R"
    CHOICES: ClassVar[dict[str, tuple[Any, ...]]] = {
        "head": ("catmlp+dpt",),
        "least_confidence": (0, 1),
    }

    head: str = "catmlp+dpt"
    descriptors: int = 24
    least_confidence: int = 0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        super().__post_init__()
        if self.descriptors < 1:
            raise Prob3rError(f"descriptors is {self.descriptors}; it must be positive.")

    def build(self) -> "MASt3R":
        """Return a model of this shape with random weights."""
        return MASt3R(self)


class MASt3R(DUSt3R):
    """A shared encoder, two decoders, and for each view a head for points and descriptors."""

    architecture: ClassVar[str] = "mast3r"
    config_type = MASt3RConfig
    downstream_head1: DescriptorHead
    downstream_head2: DescriptorHead

    def _head(self) -> DescriptorHead:
        c = self.config
        widths = (c.enc_width, c.dec_width, c.dec_width, c.dec_width)
        return DescriptorHead(widths, c.patch, c.descriptors)

    def read(
        self,
        states1: Sequence[Tensor],
        states2: Sequence[Tensor],
        grid1: tuple[int, int],
        grid2: tuple[int, int],
    ) -> Prediction:
        """Return the pointmaps and the descriptors, in float32 for any dtype of the states."""
        prediction = super().read(states1, states2, grid1, grid2)
        heads = self.downstream_head1, self.downstream_head2
        each = zip(heads, (states1, states2), (grid1, grid2), strict=True)
        with torch.autocast(states1[-1].device.type, enabled=False):
            found = [head.describe(self._read(states), grid) for head, states, grid in each]
        descriptors, logits = zip(*found, strict=True)
        return prediction._replace(
            descriptors=descriptors,
            descriptor_confidence=tuple(self.config.least_confidence + x.exp() for x in logits),
        )
