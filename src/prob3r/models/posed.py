"""A DUSt3R with an explicit pose in a camera token, which moves the points of view 2."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.architectures import register
from prob3r.models.dust3r import DUSt3R, DUSt3RConfig
from prob3r.models.layers import Tokens
from prob3r.models.protocol import Prediction, TokenLayout


class PosedDUSt3R(DUSt3R):
    """A DUSt3R whose view 2 is placed by a pose that one token carries.

    View 2's decoder has a *camera token* after its patches, which takes part in attention like a
    patch. The head of view 2 predicts a local pointmap, in camera 2's frame. A linear layer
    predicts the pose of camera 2 in camera 1's frame from the camera token. The pointmap of view 2
    is the local pointmap moved by that pose.
    """

    architecture: ClassVar[str] = "posed-dust3r"

    def __init__(self, config: DUSt3RConfig):
        super().__init__(config)
        self.camera_token = nn.Parameter(0.02 * torch.randn(config.dec_width))
        self.pose_head = nn.Linear(config.dec_width, 9)
        # The pose starts at the identity.
        nn.init.normal_(self.pose_head.weight, std=0.01)
        with torch.no_grad():
            self.pose_head.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))

    @classmethod
    def from_twin(cls, twin: DUSt3R) -> "PosedDUSt3R":
        """Return a model with a DUSt3R's weights, to be trained further.

        The head of view 2 starts as that of view 1, which already predicts local pointmaps.
        """
        model = cls(twin.config)
        model.load_state_dict(twin.state_dict(), strict=False)
        model.downstream_head2.load_state_dict(twin.downstream_head1.state_dict())
        return model

    @property
    def decoder_layouts(self) -> tuple[TokenLayout, ...]:
        """Where special tokens stand in the decoders' streams: view 2 has a camera token."""
        return TokenLayout(), TokenLayout(after=("camera",))

    def pose(
        self, states2: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
        """Return the rotation and the translation of camera 2 in camera 1's frame.

        The translation is in the unit of the pointmaps. Six numbers give the rotation's first two
        columns, made orthonormal (Zhou et al., On the Continuity of Rotation Representations in
        Neural Networks, CVPR 2019).
        """
        raw = self.pose_head(states2[-1][:, -1].float())
        first = F.normalize(raw[:, :3], dim=-1)
        second = raw[:, 3:6] - (raw[:, 3:6] * first).sum(-1, keepdim=True) * first
        second = F.normalize(second, dim=-1)
        third = torch.linalg.cross(first, second)
        return torch.stack((first, second, third), -1), raw[:, 6:]

    def read(
        self,
        states1: Sequence[Tensor],
        states2: Sequence[Tensor],
        grid1: tuple[int, int],
        grid2: tuple[int, int],
    ) -> Prediction:
        """Return the pointmaps and confidences, view 2's local one moved by the pose."""
        patches = [state[:, : grid2[0] * grid2[1]] for state in states2]
        with torch.autocast(states1[-1].device.type, enabled=False):
            output = super().read(states1, patches, grid1, grid2)
            rotation, translation = self.pose(states2)
        first, local = output.points
        moved = torch.einsum("bij,bhwj->bhwi", rotation, local) + translation[:, None, None]
        return Prediction((first, moved), output.confidence, local_points=(first, local))

    def _embed_for_decoder(self, view: int, encoded: Tensor) -> Tensor:
        patches = super()._embed_for_decoder(view, encoded)
        if view == 1:
            return patches
        return torch.cat((patches, self.camera_token.expand(len(patches), 1, -1)), 1)

    def _decoder_positions(self, view: int, encoded: Tokens) -> Tensor:
        positions = super()._decoder_positions(view, encoded)
        # The camera token is at the origin: its queries and keys are not turned.
        return F.pad(positions, (0, 0, 0, 1)) if view == 2 else positions


register(PosedDUSt3R)
