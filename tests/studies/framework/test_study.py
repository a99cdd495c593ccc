import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from prob3r import __version__
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.rooms import Rooms
from prob3r.runs.precision import running_in
from prob3r.scenes import Pair, Views
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Pairs
from prob3r.studies import STUDIES
from prob3r.studies.framework.conduct import conduct
from prob3r.studies.framework.figures import figure
from prob3r.studies.framework.study import Study, load_study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from tests.held import Held
from tests.models.examples import VGGT_CONFIG

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)


class Depths(Study):
    """The mean depth of view 1: as small as a study can be."""

    name = "depths"
    title = "How deep rooms are"
    batch = 2

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.prepared = self.illustrated = 0

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        self.prepared += 1

    def illustrate(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        self.illustrated += 1

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        self.measured += pair.names
        depth = pair.view1.depth
        assert depth is not None
        return pd.DataFrame({"pair": range(len(pair)), "value": depth.mean((1, 2)).numpy()})

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        mean = float(table.value.mean())
        return [Finding("C0", "Rooms are deep", "mixed", mean, mean, mean, "m", "none", len(table))]

    def figures(self, table):  # type: ignore[no-untyped-def]
        with figure() as (drawn, axes):
            axes[0].plot(table.value)
        return {"depth": drawn}


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("test", (32, 32), compile=False)


def test_a_study_leaves_its_table_its_findings_and_its_figures(
    model: DUSt3R, rooms: Rooms, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    result = conduct(
        Depths(),
        ModelUnderTest(model, "m"),
        rooms,
        5,
        tmp_path,
        "rooms:test",
        lambda *s: told.append(s),
    )
    home = tmp_path / "depths"
    assert told[-1] == (5, 5)
    assert result.table.pair.tolist() == list(range(5))
    assert {"easy", "hard"} <= set(result.table)
    pd.testing.assert_frame_equal(pd.read_parquet(home / "table.parquet"), result.table)
    assert len(pd.read_csv(home / "table.csv")) == 5
    saved = json.loads((home / "findings.json").read_text())
    assert saved["model"] == "m"
    assert saved["protocol"] == {"name": "study depths", "data": "rooms:test"}
    assert saved["frames"]["list"] == [f"rooms/test/{number}" for number in range(5)]
    assert saved["prob3r"] == __version__
    assert saved["findings"][0]["effect"] == pytest.approx(result.table.value.mean())
    assert (home / "depth.png").stat().st_size > 1000
    assert (home / "depth.pdf").read_bytes().startswith(b"%PDF")


def test_a_stopped_study_measures_only_what_is_left(
    model: DUSt3R, rooms: Rooms, tmp_path: Path
) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    tested = ModelUnderTest(model, "m")
    with pytest.raises(Stopped):
        conduct(Depths(), tested, rooms, 4, tmp_path, "rooms:test", stop)
    again, whole = Depths(), Depths()
    result = conduct(again, tested, rooms, 4, tmp_path, "rooms:test")
    assert again.measured == ["rooms/test/2", "rooms/test/3"]
    unbroken = conduct(whole, tested, rooms, 4, tmp_path / "other", "rooms:test")
    pd.testing.assert_frame_equal(result.table, unbroken.table)


def test_a_measured_study_is_written_again_without_preparing(
    model: DUSt3R, rooms: Rooms, tmp_path: Path
) -> None:
    tested, first, again = ModelUnderTest(model, "m"), Depths(), Depths()
    result = conduct(first, tested, rooms, 4, tmp_path, "rooms:test")
    assert (first.prepared, first.illustrated) == (1, 1)
    (tmp_path / "depths" / "findings.json").unlink()
    written = conduct(again, tested, rooms, 4, tmp_path, "rooms:test")
    assert (again.prepared, again.illustrated, again.measured) == (0, 1, [])
    assert written.findings == result.findings
    assert (tmp_path / "depths" / "findings.json").exists()


def test_a_folder_holds_one_study_of_one_thing(model: DUSt3R, rooms: Rooms, tmp_path: Path) -> None:
    conduct(Depths(), ModelUnderTest(model, "m"), rooms, 2, tmp_path, "rooms:test")
    for tested, count, data, differs in (
        (ModelUnderTest(random(CONFIG, seed=2), "m"), 2, "rooms:test", "weights"),
        (ModelUnderTest(model, "m"), 3, "rooms:test", "pairs"),
        (ModelUnderTest(model, "m"), 2, "rooms:validation", "data"),
    ):
        with pytest.raises(Prob3rError, match=f"differs in its {differs}"):
            conduct(Depths(), tested, rooms, count, tmp_path, data)
    (tmp_path / "depths" / "study.json").write_text("{")
    with pytest.raises(Prob3rError, match="is damaged"):
        conduct(Depths(), ModelUnderTest(model, "m"), rooms, 2, tmp_path, "rooms:test")


def test_a_study_says_which_probes_it_lacks(model: DUSt3R) -> None:
    with pytest.raises(Prob3rError, match="needs 'ridge' probes of m"):
        ModelUnderTest(model, "m").bank()


def test_the_strata_are_those_of_the_pairs(model: DUSt3R, rooms: Rooms, tmp_path: Path) -> None:
    table = conduct(Depths(), ModelUnderTest(model, "m"), rooms, 12, tmp_path, "rooms:test").table
    batch = rooms.batch(range(12))
    overlap = batch.overlap()
    turned = torch.rad2deg(
        torch.acos(
            ((batch.view2_to_view1[:, :3, :3].diagonal(0, 1, 2).sum(1) - 1) / 2).clamp(-1, 1)
        )
    )
    assert table.easy.tolist() == ((overlap > 0.5) & (turned < 40)).tolist()
    assert table.hard.tolist() == ((overlap < 0.3) | (turned > 60)).tolist()


def test_a_study_says_how_its_pairs_were_drawn(model: DUSt3R, rooms: Rooms, tmp_path: Path) -> None:
    held, study = Held(rooms.batch(range(9))), Depths()
    conduct(study, ModelUnderTest(model, "m"), held, 4, tmp_path, "held")
    about = json.loads((tmp_path / "depths" / "study.json").read_text())
    assert (about["pairs"], about["sample"]) == (4, "4 of 9 pairs, drawn with seed 0")
    drawn = sample(held, 4)
    assert study.measured == [held.pair.names[i] for i in drawn.indices]
    assert study.measured != list(held.pair.names[:4])


def test_a_folder_from_before_samples_were_named_goes_on(
    model: DUSt3R, rooms: Rooms, tmp_path: Path
) -> None:
    tested, held = ModelUnderTest(model, "m"), Held(rooms.batch(range(4)))
    for pairs, folder in ((rooms, tmp_path / "rooms"), (held, tmp_path / "held")):
        conduct(Depths(), tested, pairs, 3, folder, "data")
        file = folder / "depths" / "study.json"
        about = json.loads(file.read_text())
        del about["sample"], about["precision"]
        file.write_text(json.dumps(about))
    again = Depths()
    conduct(again, tested, rooms, 3, tmp_path / "rooms", "data")
    assert again.measured == []
    with pytest.raises(Prob3rError, match="differs in its sample"):
        conduct(Depths(), tested, held, 3, tmp_path / "held", "data")


def test_a_study_goes_on_in_the_precision_that_it_began_in(
    model: DUSt3R, rooms: Rooms, tmp_path: Path
) -> None:
    tested = ModelUnderTest(model, "m")
    with running_in("bfloat16", model):
        conduct(Depths(), tested, rooms, 3, tmp_path, "data")
    answers = json.loads((tmp_path / "depths" / "findings.json").read_text())
    assert answers["precision"] == "bfloat16"
    with pytest.raises(Prob3rError, match="differs in its precision"):
        conduct(Depths(), tested, rooms, 3, tmp_path, "data")


OWN = """
import pandas as pd
from prob3r.studies import Study

class Own(Study):
    name, title = "{name}", "A study of one's own"
    def measure(self, tested, pair): return pd.DataFrame()
    def findings(self, table): return []
    def figures(self, table): return {{}}
"""


def test_a_study_of_ones_own_is_a_file_that_nothing_else_lists(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(name="own-of-a-file"))
    assert load_study(tmp_path / "own.py").title == "A study of one's own"
    assert "own-of-a-file" not in STUDIES


def test_a_file_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="There is no file"):
        load_study(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(Prob3rError, match="defines 0 studies"):
        load_study(tmp_path / "empty.py")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(Prob3rError, match="cannot be run: ZeroDivisionError"):
        load_study(tmp_path / "broken.py")


def test_studies_are_reported_in_their_places() -> None:
    places = [study.place for study in STUDIES.values()]
    assert places == sorted(places)
    assert len(set(places)) == len(places)


class Spans(Study[Views]):
    """The mean distance between the cameras of a scene."""

    name = "spans"
    title = "How far cameras stand apart"
    views = 4
    batch = 2

    def measure(self, tested: ModelUnderTest, scenes: Views) -> pd.DataFrame:
        moved = scenes.cam_to_world[:, 1:, :3, 3].norm(dim=-1).mean(1)
        return pd.DataFrame({"pair": range(len(scenes)), "value": moved.numpy()})

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        mean = float(table.value.mean())
        return [Finding("C0", "They do", "mixed", mean, mean, mean, "m", "none", len(table))]

    def figures(self, table):  # type: ignore[no-untyped-def]
        return {}


def test_a_study_of_many_views_runs_over_scenes(tmp_path: Path) -> None:
    model = random(VGGT_CONFIG, seed=1)
    scenes = Rooms("test", (32, 32), compile=False, views=4)
    result = conduct(Spans(), ModelUnderTest(model, "m"), scenes, 3, tmp_path, "rooms:test")
    assert result.table.pair.tolist() == [0, 1, 2]
    assert result.table.easy.isin([True, False]).tolist() == [True] * 3
    assert json.loads((tmp_path / "spans" / "study.json").read_text())["views"] == 4


def test_a_study_of_many_views_shows_a_model_as_many_as_it_takes(model: DUSt3R) -> None:
    study, tested = Spans(), ModelUnderTest(model, "m")
    with pytest.raises(LackingError, match="shows a model 4 views, and m takes 2 at most"):
        study.check(tested)
    study.choose_views(model)
    study.check(tested)
    assert study.views == 2
    wants_three = type("Three", (Spans,), {"fewest": 3})()
    wants_three.choose_views(model)
    with pytest.raises(LackingError, match="shows a model 3 views"):
        wants_three.check(tested)
    with pytest.raises(Prob3rError, match="needs 3 views or more, not 2"):
        wants_three.choose_views(model, 2)
    pairs = Depths()
    pairs.choose_views(random(VGGT_CONFIG, seed=1), 5)
    assert pairs.views == 2
