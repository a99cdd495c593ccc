import torch

from prob3r.scenes.strangers import with_strangers
from prob3r.scenes.view import View
from prob3r.scenes.views import Views


def scenes(count: int = 6, views: int = 4, known: bool = True) -> Views:
    """Scenes whose photographs are of one colour each: 10 times the scene plus the view."""
    shown = tuple(
        View(torch.stack([torch.full((3, 8, 8), 10.0 * s + v) for s in range(count)]))
        for v in range(views)
    )
    names = tuple(f"room {s}" for s in range(count))
    return Views(shown, names, names if known else ())


def colours(views: Views) -> torch.Tensor:
    return torch.stack([image[:, 0, 0, 0] for image in views.images], 1)


def test_half_of_the_scenes_get_one_view_of_another_scene_and_never_in_the_first_place() -> None:
    clean = scenes()
    views, stranger = with_strangers(clean)
    assert stranger.sum().item() == 3
    assert stranger.sum(1).max() == 1
    assert not stranger[:, 0].any()
    before, after = colours(clean), colours(views)
    assert torch.equal(before != after, stranger)
    rows = stranger.nonzero()[:, 0]
    assert (after[stranger] // 10 != rows).all()  # of another scene
    assert torch.equal(colours(clean), before)  # the scenes themselves are left as they are


def test_the_seed_and_the_names_decide() -> None:
    one, same, other = (with_strangers(scenes(), seed) for seed in (0, 0, 1))
    assert torch.equal(colours(one.views), colours(same.views))
    assert not torch.equal(colours(one.views), colours(other.views))


def test_a_stranger_that_looks_alike_is_the_nearest_view_of_the_other_scenes() -> None:
    any_, alike = with_strangers(scenes()), with_strangers(scenes(), alike=True)
    assert torch.equal(any_.stranger, alike.stranger)  # the same views are replaced
    before, after = colours(scenes()), colours(alike.views)
    for row, slot in alike.stranger.nonzero().tolist():
        others = torch.cat([before[:row], before[row + 1 :]]).flatten()
        nearest = (others - before[row, slot]).abs().min()
        assert (after[row, slot] - before[row, slot]).abs() == nearest


def test_scenes_that_are_not_known_and_lone_scenes_stay_clean() -> None:
    for clean in (scenes(known=False), scenes(count=1)):
        views, stranger = with_strangers(clean)
        assert not stranger.any()
        assert torch.equal(colours(views), colours(clean))


def test_a_stranger_has_the_size_of_the_view_that_it_replaces() -> None:
    clean = scenes(views=3)
    small = Views((clean.views[0], clean.views[1], View(torch.zeros(6, 3, 4, 8))), *clean_names(6))
    views, stranger = with_strangers(small)
    assert [view.size for view in views.views] == [(8, 8), (8, 8), (4, 8)]
    assert stranger.any()


def clean_names(count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = tuple(f"room {s}" for s in range(count))
    return names, names
