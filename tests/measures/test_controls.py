from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.measures.controls import describe_controls, require_control
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.scenes.shuffled import other_scenes, shuffled


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Rooms("test", size=(32, 32), compile=False).batch(range(6))


def turned(pair: Pair, degrees: list[float]) -> Pair:
    """The first pair several times in one scene; each row's cameras turn about the up axis."""
    rows = pair[[0] * len(degrees)]
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.eye(4).repeat(len(degrees), 1, 1)
    turn[:, 0, 0] = turn[:, 2, 2] = angle.cos()
    turn[:, 0, 2], turn[:, 2, 0] = angle.sin(), -angle.sin()

    def posed(view):  # type: ignore[no-untyped-def]
        return replace(view, cam_to_world=view.cam_to_world @ turn)

    images = torch.arange(len(degrees)).float()[:, None, None, None].expand(-1, 3, 32, 32)
    view1, view2 = posed(rows.view1), posed(rows.view2)
    return rows.with_views(replace(view1, image=images), view2)


def shown(control: Pair) -> list[int]:
    return control.view1.image[:, 0, 0, 0].int().tolist()


def test_of_rooms_it_is_the_view_1_of_the_pair_before(pair: Pair) -> None:
    control = shuffled(pair)
    assert torch.equal(control.pair.view1.image, pair.view1.image.roll(1, 0))
    assert control.pair.view1.depth is pair.view1.depth
    assert control.pair.view2 is pair.view2
    assert control.known.all()
    assert control.elsewhere.all()
    assert describe_controls(control.counts) == "view 1 of another scene for 6 pairs"


def test_a_neighbour_of_the_same_scene_is_passed_over(pair: Pair) -> None:
    mixed = pair.named(scenes=("a", "a", "b", "b", "b", "a"))
    control = shuffled(mixed)
    assert control.elsewhere.all()
    for row, other in enumerate((4, 4, 1, 1, 1, 4)):
        assert torch.equal(control.pair.view1.image[row], pair.view1.image[other])


def test_in_one_scene_it_is_a_frame_that_sees_nothing_of_view_2(pair: Pair) -> None:
    around = turned(pair, [0, 3, 180, 183])
    control = shuffled(around)
    assert control.known.all()
    assert not control.elsewhere.any()
    assert shown(control.pair) == [3, 3, 1, 1]
    words = describe_controls(control.counts)
    assert words == "a frame that sees nothing of view 2 for 4 pairs"


def test_without_such_a_frame_there_is_none(pair: Pair) -> None:
    around = turned(pair, [0, 3, 6])
    unknown = pair.named(scenes=())
    bare = turned(pair, [0, 180])
    bare = bare.with_views(view2=replace(bare.view2, depth=None, valid=None))
    for pairs in (around, unknown, bare, pair[0]):
        control = shuffled(pairs)
        assert not control.known.any()
        assert torch.equal(control.pair.view1.image, pairs.view1.image)
        assert control.counts == Counter(none=len(pairs))
        assert describe_controls(control.counts).startswith("none, since each frame")


def test_words_count_every_kind() -> None:
    counts = Counter(elsewhere=3, unseen=2, none=1)
    assert describe_controls(counts) == (
        "view 1 of another scene for 3 pairs, a frame that sees nothing of view 2 for 2 pairs, "
        "none for 1 pairs"
    )


def test_pairs_without_a_control_have_no_value(pair: Pair) -> None:
    control = shuffled(pair[[0, 1, 2]].named(scenes=("a", "b", "a")))
    lone = control._replace(known=torch.tensor([True, False, True]))
    table = pd.DataFrame({"pair": [0, 1, 2, 1], "value": [1.0, 2.0, 3.0, 4.0]})
    masked = lone.masked(table.assign(source="shuffled"))
    assert masked.value.isna().tolist() == [False, True, False, True]
    require_control(masked)
    with pytest.raises(Prob3rError, match="No pair has a shuffled control"):
        require_control(masked[masked.pair == 1])


def test_donors_are_of_another_scene(pair: Pair) -> None:
    assert other_scenes(pair).tolist() == [5, 0, 1, 2, 3, 4]
    assert other_scenes(pair.named(scenes=tuple("aabbba"))).tolist() == [4, 4, 1, 1, 1, 4]
    assert other_scenes(pair.named(scenes=tuple("aaaaaa"))).tolist() == [-1] * 6
    assert other_scenes(pair.named(scenes=())).tolist() == [-1] * 6
