import math

import pytest
import torch

from prob3r.measures.belonging import (
    ATTENTION,
    BEST_PATCHES,
    INPUT,
    MEAN_FEATURES,
    belonging,
    doubts,
    of_others,
    received,
)
from prob3r.measures.features import best_cosines, mean_cosines
from prob3r.runs.trace import trace
from tests.models.examples import EXAMPLES
from tests.models.joint import scene


def test_the_nearest_patch_and_the_mean_patch_are_two_things() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    one, other = torch.stack([x, x, y])[None], torch.stack([y, x, -y])[None]
    best = best_cosines([one, other])[0]
    torch.testing.assert_close(best[0], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(best[1], torch.tensor([2 / 3, 1.0]))  # -y has no like in view 1
    mean = mean_cosines([one, other])[0]
    torch.testing.assert_close(mean[0, 1], torch.tensor(2 / math.sqrt(5)))  # of (2, 1) and (1, 0)


def test_the_mean_over_others_leaves_the_view_itself_out() -> None:
    between = torch.tensor([[9.0, 1.0, 3.0], [2.0, 9.0, 4.0], [5.0, 7.0, 9.0]])
    assert of_others(between).tolist() == [2.0, 3.0, 6.0]
    assert received(between).tolist() == [3.5, 4.0, 3.5]


def test_a_doubt_is_how_far_a_view_is_under_the_median_of_the_others_but_the_first() -> None:
    values = torch.tensor([9.0, 4.0, 1.0, 6.0])
    found = doubts(BEST_PATCHES, values)
    assert found[0].isnan()
    assert found[1:].tolist() == [-0.5, 4.0, -3.5]
    by_ratio = doubts(ATTENTION, torch.tensor([0.9, 0.1, 0.2, 0.1]))
    assert by_ratio[2].item() == pytest.approx(-math.log(2))
    assert by_ratio[1].item() == pytest.approx(math.log(0.2) / 2 - math.log(0.1) / 2)
    assert doubts(BEST_PATCHES, values[:2]).isnan().all()  # one view alone has no others


@pytest.mark.parametrize("name", ["vggt", "pi3"])
def test_scores_are_those_of_the_map_and_of_the_streams(name: str) -> None:
    model, views = EXAMPLES[name](), small(name)
    found = belonging(model, views)
    blocks = [0, 1]
    assert {block for score, block in found if score == ATTENTION} == set(blocks)
    assert {block for score, block in found if score == BEST_PATCHES} == {INPUT, *blocks}
    run = trace(model, views, ["dec*.1.global_attn.probs", "dec*.1.global_mlp"], output=False)
    maps = [run[f"dec{view}.1.global_attn.probs"] for view in (1, 2, 3)]
    patches = maps[0].tokens.patches(tokens := maps[0].shape[2])
    keys = torch.arange(patches.start, patches.stop)
    given = [torch.Tensor(m)[:, :, patches][..., keys + tokens].sum(-1).mean((1, 2)) for m in maps]
    expected = (given[0] + given[2]) / 2  # what views 1 and 3 give to view 2
    torch.testing.assert_close(found[ATTENTION, 1][:, 1], expected)
    means = [run[f"dec{view}.1.global_mlp"].patches.mean(1) for view in (1, 2, 3)]
    cosines = [torch.cosine_similarity(means[2], mean) for mean in means[:2]]
    torch.testing.assert_close(found[MEAN_FEATURES, 1][:, 2], sum(cosines) / 2)


def small(name: str):  # type: ignore[no-untyped-def]
    return scene(3).map(lambda image: image[..., :28, :28])
