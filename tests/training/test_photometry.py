import torch
from torch import Tensor

from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.training.photometry import photographed


def pairs() -> Pair:
    return Rooms("train", (32, 32), compile=False, style="everyday").batch(range(32))


def seen(pair: Pair, seed: int = 0) -> Pair:
    return photographed(pair, torch.Generator().manual_seed(seed))


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Of each image's pixels, over all colours."""
    a, b = (t.mean(dim=1).flatten(1) for t in (one, other))
    a, b = (t - t.mean(dim=1, keepdim=True) for t in (a, b))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-6)


def test_pictures_change_and_the_truth_does_not() -> None:
    pair = pairs()
    taken = seen(pair)
    for new, old in ((taken.view1, pair.view1), (taken.view2, pair.view2)):
        assert new.image.shape == old.image.shape
        assert new.image.isfinite().all()
        assert new.image.abs().max() <= 1
        assert torch.equal(new.points, old.points)
        assert correlation(new.image, old.image).median() > 0.8
        assert (new.image - old.image).abs().mean() > 0.1
    assert taken.names == pair.names


def test_the_generator_decides() -> None:
    pair = pairs()
    assert torch.equal(seen(pair).view2.image, seen(pair).view2.image)
    assert not torch.equal(seen(pair).view2.image, seen(pair, 1).view2.image)


def test_the_views_of_a_pair_share_the_scene_and_differ_in_exposure() -> None:
    """Two pictures of one view: as colourful as each other, and not as bright."""
    pair = pairs()
    taken = seen(Pair(pair.view1, pair.view1, pair.names))
    one, two = taken.view1.image, taken.view2.image
    apart = (one.mean(dim=(1, 2, 3)) - two.mean(dim=(1, 2, 3))).abs()
    assert apart.median() > 0.05
    assert correlation(one, two).median() > 0.8


def test_some_pairs_are_grey() -> None:
    """White balance tints them, so channels differ by a factor alone."""
    image = seen(pairs()).view1.image
    red, green, _ = (image / 2 + 0.5).flatten(2).unbind(1)
    spread = torch.stack(
        [torch.corrcoef(torch.stack(rg))[0, 1] for rg in zip(red, green, strict=True)]
    )
    assert (spread > 0.9).float().mean() > 0.05
