import json
import re
from pathlib import Path

import pandas as pd
import pytest

from prob3r.errors import Prob3rError
from prob3r.models import random
from prob3r.rooms import Rooms
from prob3r.studies import ModelUnderTest, conduct
from prob3r.studies.framework.sharing import fetch_results, push_results
from prob3r.studies.page import write_findings
from tests.io.hub.stand_in import Hub
from tests.studies.framework.test_study import CONFIG, Depths

MODEL = random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study of two rooms."""
    folder = tmp_path_factory.mktemp("results")
    rooms = Rooms("test", (32, 32), compile=False)
    conduct(Depths(), ModelUnderTest(MODEL, "m"), rooms, 2, folder, "rooms:test")
    write_findings(folder, ["depths"])
    return folder


def test_results_come_back_as_they_were(owner: Hub, results: Path) -> None:
    url = push_results(results, "lab/results")
    assert "/datasets/lab/results/commit/" in url
    fetched = fetch_results("lab/results", MODEL)
    for file in results.rglob("*"):
        if file.is_file() and file.parent.name != "parts":
            assert (fetched / file.relative_to(results)).read_bytes() == file.read_bytes()
    assert not (fetched / "depths" / "parts").exists()
    table = pd.read_parquet(fetched / "depths" / "table.parquet")
    pd.testing.assert_frame_equal(table, pd.read_parquet(results / "depths" / "table.parquet"))


def test_one_study_alone(owner: Hub, results: Path) -> None:
    push_results(results / "depths", "lab/depths")
    fetched = fetch_results("lab/depths")
    findings = json.loads((fetched / "findings.json").read_text())
    assert findings["study"] == "depths"


def test_results_of_another_model_are_refused(owner: Hub, results: Path) -> None:
    push_results(results, "lab/results")
    with pytest.raises(Prob3rError, match=r"'lab/results' are of the model .*, but this one is"):
        fetch_results("lab/results", random(CONFIG, seed=2))


def test_older_results_are_had_by_their_revision(owner: Hub, results: Path, tmp_path: Path) -> None:
    first = push_results(results, "lab/results").rsplit("/", 1)[1]
    about = json.loads((results / "depths" / "study.json").read_text()) | {"weights": "0" * 16}
    (tmp_path / "depths").mkdir()
    (tmp_path / "depths" / "study.json").write_text(json.dumps(about))
    push_results(tmp_path, "lab/results")
    with pytest.raises(Prob3rError, match="are of the model 0000000000000000"):
        fetch_results("lab/results", MODEL)
    fetch_results("lab/results", MODEL, revision=first)
    fetch_results(f"lab/results@{first}", MODEL)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "those of none"),
        (['{"weights": "a"}', '{"weights": "b"}'], "those of a, b"),
        (["{"], "damaged"),
        (["{}"], "damaged"),
        (["[1]"], "damaged"),
    ],
)
def test_folders_of_something_else(texts: list[str], said: str, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / str(number)).mkdir()
        (folder / str(number) / "study.json").write_text(text)
    with pytest.raises(Prob3rError, match=said):
        push_results(folder, "lab/results")
    assert hub.requests == []


def test_repositories_of_something_else(hub: Hub) -> None:
    hub.create("lab/photographs", "datasets").commit({"a.png": b""})
    with pytest.raises(Prob3rError, match="'lab/photographs' must hold results"):
        fetch_results("lab/photographs")
    with pytest.raises(Prob3rError, match=re.escape("repo_id is 'results'; it must be")):
        fetch_results("results")
