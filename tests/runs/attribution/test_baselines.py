from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.runs.attribution import DataMean, attribute
from prob3r.runs.edits import Means, head_means
from prob3r.runs.trace import trace
from prob3r.scenes import Views
from tests.runs.attribution.conftest import noise, smooth

CONFIG = DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 1)


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1).double()


@pytest.fixture(scope="module")
def views() -> Views:
    return noise((32, 32))


def test_means_hold_what_every_sublayer_adds(model: DUSt3R, views: Views, tmp_path: Path) -> None:
    means = head_means(model, [views])
    run = trace(model, views, "dec2.*")
    added = Tensor(run["dec2.0.mlp"]) - Tensor(run["dec2.0.cross_attn"])
    torch.testing.assert_close(means.added["dec2.0.mlp"], added.mean((0, 1)))
    assert "dec2.embed" not in means.added
    # What attention adds in the mean is the projection of its heads' means.
    projected = model.dec_blocks2[0].cross_attn.proj(means["dec2.0.cross_attn"].flatten())
    torch.testing.assert_close(means.added["dec2.0.cross_attn"], projected)
    means.save(tmp_path / "means.safetensors")
    read = Means.load(tmp_path / "means.safetensors")
    assert read.values.keys() == means.values.keys()
    torch.testing.assert_close(read.added, means.added)


def test_the_mean_of_a_data_set_is_put_in_the_place_of_each_part(
    model: DUSt3R, views: Views
) -> None:
    means = head_means(model, [views])
    found = attribute(
        model, views, smooth, DataMean(means), kinds=("sublayers", "heads", "streams")
    )
    assert not found.streams  # there is no mean of those
    assert found.sublayers.keys() == means.added.keys()
    # Where the means are those of one scene, and the tokens all alike, nothing is changed.
    flat = views.map(torch.zeros_like)[0]
    own = attribute(model, flat, smooth, DataMean(head_means(model, [flat])))
    for part in own.parts():
        scale = found.sublayers[part.site].abs().max()
        assert abs(part.effect) <= 1e-6 * float(scale)


def test_the_means_of_another_model_are_refused(model: DUSt3R, views: Views) -> None:
    other = head_means(random(CONFIG, seed=2).double(), [views])
    with pytest.raises(Prob3rError, match="give the means of this model"):
        attribute(model, views, smooth, DataMean(other))
