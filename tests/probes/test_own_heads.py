"""A model's own heads, read at any block of its trunk."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import VGGT, DepthAnything3, MultiViewModel, Pi3, Prediction
from prob3r.models.alternating import AlternatingModel
from prob3r.models.sites import Site, Tap
from prob3r.probes import Lens, at_blocks, cameras_at_blocks, what_is_read
from prob3r.scenes.views import Views
from tests.models.examples import DA3_CONFIG, EXAMPLES, PI3_CONFIG, VGGT_CONFIG, drawn
from tests.models.test_architectures import close, random_views, run

FOUR = (0, 1, 2, 3)
DEEP: dict[str, MultiViewModel] = {
    "vggt": VGGT(replace(VGGT_CONFIG, depth=4, head_blocks=FOUR)),
    "pi3": Pi3(replace(PI3_CONFIG, depth=4)),
    "depth-anything-3": DepthAnything3(replace(DA3_CONFIG, depth=4, head_blocks=FOUR)),
}


class Frozen(Tap):
    """From a block on, nothing is added to the trunk's streams: the slow way to end it early."""

    def __init__(self, block: int):
        self.block, self.ends, self.frames = block, dict[int, Tensor](), dict[int, Tensor]()

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        place = Site.parse(site)
        if place.stack != "dec" or place.block is None:
            return tensor
        kept = self.frames if place.sublayer == "mlp" else self.ends
        if place.block == self.block and place.sublayer in ("mlp", "global_mlp"):
            kept[place.view] = tensor
        if place.block > self.block and place.sublayer in ("mlp", "global_mlp"):
            return kept[place.view]
        return tensor


@pytest.fixture(scope="module", params=sorted(DEEP))
def model(request: pytest.FixtureRequest) -> MultiViewModel:
    made = drawn(DEEP[request.param])
    if isinstance(made, VGGT):
        with torch.no_grad():  # fields of view stay positive
            made.camera_head.pose_branch.fc2.bias[7:] += 1
    return made


@pytest.fixture(scope="module")
def views(model: MultiViewModel) -> Views:
    return random_views(model, 0)


def test_later_blocks_are_replaced_by_the_one_that_is_read(
    model: MultiViewModel, views: Views
) -> None:
    """Blocks after it give what it gave, and the model runs to its end."""
    found = dict(at_blocks(model, views))
    assert list(found) == [0, 1, 2, 3]
    outputs: dict[int, Prediction] = {}
    for block, early in found.items():
        outputs[block] = run(model, views, Frozen(block))
        close(early, outputs[block], block)
    close(found[3], run(model, views), "the last block")
    assert not torch.allclose(found[0].points[1], found[3].points[1], rtol=1e-2)


def test_cameras_alone_are_those_of_the_whole(model: MultiViewModel, views: Views) -> None:
    whole = dict(at_blocks(model, views, [0, 2]))
    for block, cameras in cameras_at_blocks(model, views, [0, 2]).items():
        expected = whole[block].cameras
        assert expected is not None
        torch.testing.assert_close(cameras, expected)


def test_what_is_read_is_said_in_one_sentence(model: MultiViewModel) -> None:
    sentence = what_is_read(model)
    assert "block b" in sentence
    assert sentence.endswith(".")
    assert sentence.count(".") == 1


def test_models_and_blocks_that_cannot_be_read(model: MultiViewModel, views: Views) -> None:
    with pytest.raises(Prob3rError, match="There is no block 4; blocks count from 0 to 3"):
        next(at_blocks(model, views, [4]))
    with pytest.raises(Prob3rError, match="The heads of a DUSt3R cannot be run at other blocks"):
        what_is_read(EXAMPLES["dust3r"]())
    assert isinstance(model, AlternatingModel)
    with pytest.raises(Prob3rError, match=r"has no linear head.*at_blocks"):
        Lens.of(model)
