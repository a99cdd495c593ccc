"""Lists of frames: rebuilt ones are the published ones, and files are read as they are."""

import json
from pathlib import Path

import numpy as np
import pytest

from prob3r.errors import Prob3rError
from prob3r.io.files import digest_of
from prob3r.scenes.readers import Camera, Listing, Reader
from prob3r.studies.protocols import PROTOCOLS, ChosenScenes
from prob3r.studies.protocols.lists import drawn, every, read_places, refuse_list, sets_by_places


class Recordings(Reader):
    """Nothing but scenes with so many frames."""

    def __init__(self, **frames: int):
        self.root, self.pairs = Path("somewhere"), np.empty((0, 2))
        self.scenes = [scene for scene, count in frames.items() for _ in range(count)]
        self.names = [f"{scene} {number}" for scene, n in frames.items() for number in range(n)]

    def listing(self, found: list[Path]) -> Listing:
        raise NotImplementedError

    def image(self, frame: int) -> Path:
        raise NotImplementedError

    def camera(self, frame: int) -> Camera:
        raise NotImplementedError


SEVENSCENES = {
    "chess": (3, 5),
    "fire": (3, 4),
    "heads": (1,),
    "office": (2, 6, 7, 9),
    "pumpkin": (1, 7),
    "redkitchen": (3, 4, 6, 12, 14),
    "stairs": (1, 4),
}
"""The test sequences of 7-Scenes: of a thousand frames, those of the stairs of five hundred."""


def test_frames_of_7scenes_and_dtu_are_the_published_ones() -> None:
    sequences = {
        f"{scene}/seq-{number:02d}": 500 if scene == "stairs" else 1000
        for scene, numbers in SEVENSCENES.items()
        for number in numbers
    }
    for name in ("7scenes-sparse", "7scenes-dense"):
        protocol = PROTOCOLS[name]
        reader = Recordings(**sequences)
        chosen = ChosenScenes.of(sets_by_places(reader, every(reader, protocol.stride)), "")
        assert chosen.digest == protocol.published
    dtu = PROTOCOLS["dtu-points"]
    scans = Recordings(**dict.fromkeys([*reversed(dtu.scenes), "scan2"], 49))
    chosen = ChosenScenes.of(sets_by_places(scans, every(scans, dtu.stride, dtu.scenes)), "")
    assert chosen.digest == dtu.published


def test_draws_are_those_of_pi3() -> None:
    # yyfz/Pi3, branch evaluation, 97ce97b8: Re10K_relpose_seq-id-map_seed42.json. Its first six
    # recordings have so many frames: no other numbers lead to these draws.
    counts = {
        "000c3ab189999a83": 279,
        "000db54a47bd43fe": 237,
        "0017ce4c6a39d122": 229,
        "002ae53df0e0afe2": 89,
        "004334c94bbc8bd5": 142,
        "0043978734eec081": 71,
    }
    places = drawn(Recordings(**dict(reversed(counts.items()))), 10, 42)
    assert list(places) == list(counts)
    assert places["000c3ab189999a83"] == [30, 126, 199, 142, 254, 237, 97, 206, 258, 144]
    assert digest_of(places) == "5420b67f75313d6d"


def test_sets_are_told_by_scene_and_place() -> None:
    reader = Recordings(a=3, b=4)
    chosen = ChosenScenes.of(sets_by_places(reader, {"b": [3, 0], "a": [1, 2]}), "by hand")
    assert chosen.keys == [("b", [3, 0]), ("a", [1, 2])]
    assert chosen.names == [["b 3", "b 0"], ["a 1", "a 2"]]
    other = ChosenScenes.of(sets_by_places(reader, {"a": [1, 2], "b": [3, 0]}), "")
    assert chosen.digest == other.digest  # scenes may be in any order, frames may not
    turned = ChosenScenes.of(sets_by_places(reader, {"a": [2, 1], "b": [3, 0]}), "")
    assert turned.digest != chosen.digest
    assert chosen.take([1], "one").keys == [("a", [1, 2])]


def test_frames_that_are_not_there_are_named() -> None:
    reader = Recordings(a=3)
    with pytest.raises(Prob3rError, match="has 3 frames of a, but the list asks for frame 3, cou"):
        sets_by_places(reader, {"a": [0, 3]})
    with pytest.raises(Prob3rError, match="has 0 frames of c, but the list asks for frame 1"):
        sets_by_places(reader, {"c": [0, 1]})
    with pytest.raises(Prob3rError, match="a has only one listed frame; list at least two"):
        sets_by_places(reader, {"a": [0]})
    with pytest.raises(Prob3rError, match="somewhere has no scene of this protocol"):
        sets_by_places(reader, {})


def test_damaged_lists_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    for content in ({"a": [0, 1.5]}, {"a": "01"}, {"a": [True]}):
        file.write_text(json.dumps(content))
        with pytest.raises(Prob3rError, match="a must have a list of whole numbers"):
            read_places(file)
    file.write_text("[1]")
    with pytest.raises(Prob3rError, match="cannot be read"):
        read_places(file)
    with pytest.raises(Prob3rError, match=r"tum takes no list of frames, but got .*list\.json"):
        refuse_list("tum", file)
    refuse_list("tum", None)


def test_pairs_of_scannet_are_the_same_in_both_spellings() -> None:
    protocol = PROTOCOLS["scannet-1500"]()
    frames = "scans_test/scene0707_00/sens/frame-000015.color.jpg", "scene0707_00/color/15.jpg"
    superglue, glue_factory = (protocol.key([f"00000/{name}"] * 2) for name in frames)
    assert superglue == glue_factory == ("scene0707_00", [15, 15])
    assert protocol.key(["00000/a/1.png", "00000/a/2.png"]) == ["00000/a/1.png", "00000/a/2.png"]
