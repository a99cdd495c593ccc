"""What a model lacks for a study is named: before anything runs, and on the page of findings."""

from pathlib import Path

import pandas as pd
import pytest

from prob3r.models import DUSt3R, DUSt3RConfig, random
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies import (
    Finding,
    LackingError,
    ModelUnderTest,
    Study,
    conduct,
    leave_out,
    write_findings,
)
from prob3r.studies.origins import Origins
from prob3r.studies.pose import Pose

CONFIG = DUSt3RConfig((16, 16), 8, 16, 1, 2, 24, 1, 2)


class Twinned(Study):  # without a name of its class, it is not registered
    """Counts pairs, and has a control."""

    title = "Twinned"
    controls = ("twin",)

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        return pd.DataFrame({"pair": range(len(pair)), "value": 1.0})

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        return [Finding("C0", "There are pairs", "supported", 1.0, 1.0, 1.0, "", "none", 3)]

    def figures(self, table: pd.DataFrame) -> dict[str, object]:
        return {}


def under(**references: DUSt3R) -> ModelUnderTest:
    return ModelUnderTest(random(CONFIG, seed=1), "m", references=references)


def test_studies_say_what_they_lack() -> None:
    with pytest.raises(LackingError, match="needs checkpoints of a training"):
        Origins().check(under())
    assert Pose().missing_controls(under()) == ["mini-vggt"]
    assert not Pose().missing_controls(under(**{"mini-vggt": random(CONFIG, seed=2)}))


def test_the_positive_control_is_its_own() -> None:
    model, other = random(CONFIG, seed=1), random(CONFIG, seed=2)
    own = ModelUnderTest(model, "mini-vggt")
    assert own.positive is model
    assert not Pose().missing_controls(own)
    assert ModelUnderTest(model, "m", references={"mini-vggt": other}).positive is other
    assert ModelUnderTest(model, "m").positive is None


def test_the_page_names_missing_controls_and_studies_that_were_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twinned, "name", "twinned", raising=False)
    rooms = Rooms("test", (16, 16), compile=False)
    conduct(Twinned(), under(), rooms, 3, tmp_path, "rooms:test")
    leave_out(Origins(), "needs weights along training", tmp_path)
    page = write_findings(tmp_path, ["twinned", "origins"]).read_text()
    assert "- `twinned` of `m` lacks the control `twin`." in page
    assert "- `origins` was not run on `m`: needs weights along training" in page
    whole = under(twin=random(CONFIG, seed=2))
    conduct(Twinned(), whole, rooms, 3, tmp_path / "b", "rooms:test")
    assert "lacks" not in write_findings(tmp_path / "b", ["twinned"]).read_text()
