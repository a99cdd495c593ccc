import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.models.checkpoints import Checkpoint
from tests.models.conftest import SMALL


class TestWeights:
    """What is said of weights that do not fit, the same for all layouts."""

    def told(self, weights: dict[str, Tensor]) -> str:
        card = {"architecture": "dust3r", "config": SMALL.to_dict()}
        with pytest.raises(Prob3rError) as error:
            Checkpoint(Path("some.pth"), card, weights).build()
        assert str(error.value).startswith("some.pth ")
        return str(error.value)

    def test_missing_and_left_over_are_named_and_counted(self, model: DUSt3R) -> None:
        weights = model.state_dict()
        for name in [name for name in weights if name.startswith("dec_blocks2.1.")]:
            weights[name.replace("blocks2.1", "blocks2.7")] = weights.pop(name)
        message = self.told(weights)
        count = len(model.dec_blocks2[1].state_dict())
        assert "missing: dec_blocks2.1.attn.proj.bias, dec_blocks2.1.attn.proj.weight" in message
        assert "left over: dec_blocks2.7.attn.proj.bias" in message
        assert message.count(f"({count} in all)") == 2

    def test_another_shape(self, model: DUSt3R) -> None:
        weights = model.state_dict() | {"enc_norm.bias": torch.zeros(17)}
        assert "of another shape: enc_norm.bias." in self.told(weights)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
    def test_another_type(self, dtype: torch.dtype, model: DUSt3R) -> None:
        weights = model.state_dict() | {"enc_norm.bias": torch.zeros(16, dtype=dtype)}
        assert "of another type: enc_norm.bias." in self.told(weights)

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_not_finite(self, number: float, model: DUSt3R) -> None:
        weights = model.state_dict()
        weights["dec_norm.bias"] = torch.arange(24.0)
        weights["dec_norm.bias"][5] = number
        assert "not finite: dec_norm.bias." in self.told(weights)

    def test_more_blocks_than_weights(self, model: DUSt3R) -> None:
        card = {"architecture": "dust3r", "config": SMALL.to_dict() | {"enc_depth": 10**9}}
        with pytest.raises(Prob3rError, match="too few for the 1000000002 blocks"):
            Checkpoint(Path("some.pth"), card, model.state_dict()).build()

    def test_of_another_model(self, model: DUSt3R) -> None:
        weights = random(DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2, "dpt")).state_dict()
        message = self.told(weights)
        assert "missing: downstream_head1.proj.bias" in message
        assert "left over: downstream_head1.dpt" in message


class TestAliases:
    """The DPT head's modules go by two names; files have either, or both."""

    config = DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2, "dpt")

    @staticmethod
    def alias(name: str) -> str:
        name = re.sub(r"act_postprocess\.(\d)", lambda m: f"act_{int(m[1]) + 1}_postprocess", name)
        return re.sub(r"layer_rn\.(\d)", lambda m: f"layer{int(m[1]) + 1}_rn", name)

    def weights(self) -> dict[str, Tensor]:
        """Return weights of one value each, which take no memory."""
        with torch.device("meta"):
            shapes = {n: t.shape for n, t in DUSt3R(self.config).state_dict().items()}
        return {n: torch.tensor(float(i)).expand(s) for i, (n, s) in enumerate(shapes.items())}

    def build(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        card = {"architecture": "dust3r", "config": self.config.to_dict()}
        return Checkpoint(Path("some.pth"), card, weights).build().state_dict()

    def test_there_are_some(self) -> None:
        renamed = [name for name in self.weights() if self.alias(name) != name]
        assert len(renamed) == 2 * (4 * 2 + 3 * 2 + 4)
        assert self.alias("downstream_head2.dpt.scratch.layer_rn.3.weight") == (
            "downstream_head2.dpt.scratch.layer4_rn.weight"
        )

    def test_either_spelling_will_do(self) -> None:
        weights = self.weights()
        built = self.build({self.alias(name): tensor for name, tensor in weights.items()})
        assert all(built[name].flatten()[0] == weights[name].flatten()[0] for name in built)

    @pytest.mark.parametrize("aliases_last", [False, True])
    def test_of_both_the_list_counts(self, aliases_last: bool) -> None:
        weights = self.weights()
        aliases = {self.alias(n): t - 1000 for n, t in weights.items() if self.alias(n) != n}
        built = self.build(weights | aliases if aliases_last else aliases | weights)
        assert all(built[name].flatten()[0] == weights[name].flatten()[0] for name in built)

    def test_with_neither_it_is_missing(self) -> None:
        weights = self.weights()
        del weights["downstream_head1.dpt.scratch.layer_rn.0.weight"]
        with pytest.raises(Prob3rError, match=r"missing: downstream_head1.*layer_rn\.0\.weight\."):
            self.build(weights)
