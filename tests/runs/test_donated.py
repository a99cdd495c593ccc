import torch

from prob3r.runs.donated import Donated
from prob3r.scenes import View, Views


def views(*scenes: str) -> Views:
    image = torch.zeros(len(scenes), 3, 8, 8)
    return Views((View(image), View(image), View(image)), scenes=scenes)


def test_each_scene_is_given_the_records_of_the_one_before_it_of_another_scene() -> None:
    records = {"dec1.embed": torch.arange(3.0)[:, None]}
    given = Donated.of(views("a", "a", "b"), records)
    assert given.rows == [0, 1, 2]
    assert given.records["dec1.embed"][:, 0].tolist() == [2.0, 2.0, 1.0]


def test_scenes_of_one_place_give_nothing_to_each_other() -> None:
    given = Donated.of(views("a", "a"), {"dec1.embed": torch.zeros(2, 1)})
    assert given.rows == []
    assert given.records["dec1.embed"].shape == (0, 1)
