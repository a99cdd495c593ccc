import numpy as np
import pandas as pd
import pytest

from prob3r.measures.tokens import COUNT, MASS
from prob3r.rooms import Rooms
from prob3r.studies.camera_token import CameraToken
from prob3r.studies.camera_token.contrasts import CAMERA, MODES, REGISTER
from prob3r.studies.camera_token.figures import TO_DONOR, TO_OWN
from prob3r.studies.cuts.tokens import SWAP
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from tests.models.examples import EXAMPLES

Losses = dict[str, float]


def made(cameras: Losses, points: Losses, modes: tuple[str, ...] = MODES) -> list[Finding]:
    """Forty scenes with given losses by token, the same in every mode, in any order, some noise."""
    draw = np.random.default_rng(0)
    rows = []
    for metric, losses in (("stated auc@30", cameras), ("pointmap_error", points)):
        for mode in modes:
            for tokens in (CAMERA, REGISTER, COUNT, MASS):
                for pair in range(40):
                    loss = losses.get(tokens, 0.0) + 0.001 * draw.standard_normal()
                    stated = metric == "stated auc@30"
                    clean, change = (0.9, -loss) if stated else (1.0, np.expm1(loss))
                    rows.append((tokens, mode, -1, pair, metric, clean, change))
    columns = ["tokens", "mode", "block", "pair", "metric", "clean", "value"]
    table = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)
    return CameraToken().findings(table)


def test_a_token_that_the_cameras_need_and_the_points_do_not() -> None:
    carries, points = made({CAMERA: 0.5, MASS: 0.05}, {CAMERA: 0.01})
    assert (carries.verdict, points.verdict) == ("supported", "supported")
    assert carries.effect == pytest.approx(0.5, abs=0.01)
    assert "over register +0.500" in carries.control
    assert (carries.claim, points.pairs) == ("N4", 40)


def test_points_that_need_the_token_more_than_any_other() -> None:
    carries, points = made({CAMERA: 0.5}, {CAMERA: 0.3, MASS: 0.1})
    assert (carries.verdict, points.verdict) == ("supported", "not supported")


def test_points_that_lose_no_more_than_by_other_tokens() -> None:
    assert made({CAMERA: 0.5}, {CAMERA: 0.3, MASS: 0.3})[1].verdict == "supported"


def test_cameras_that_lose_nothing_or_less_than_by_a_control_refute_it() -> None:
    for losses in ({CAMERA: 0.001}, {CAMERA: 0.1, MASS: 0.3}):
        carries, points = made(losses, {})
        assert (carries.verdict, points.verdict) == ("not supported", "mixed")
        assert "cannot tell" in points.control


def test_cameras_that_lose_as_much_by_a_control_leave_it_open() -> None:
    assert made({CAMERA: 0.3, REGISTER: 0.3}, {})[0].verdict == "mixed"


@pytest.mark.parametrize("name", ["vggt", "depth-anything-3"])
def test_the_study_runs_and_its_figures_have_units(name: str) -> None:
    study, tested = CameraToken(), ModelUnderTest(EXAMPLES[name](), "m")
    study.views = 3
    study.check(tested)
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    study.prepare(tested, rooms)
    table = study.measure(tested, rooms.batch([0, 1]))
    kinds = {CAMERA, COUNT, MASS} | ({REGISTER} if name == "vggt" else set())
    assert set(table.tokens) == kinds
    assert set(table["mode"]) == {*MODES, SWAP}
    last = table[(table.tokens == CAMERA) & (table.block == 1)]
    for metric, expected in ((TO_DONOR, True), (TO_OWN, False)):
        rows = last[last.metric == metric]
        assert ((rows.value + rows.clean).abs().max() < 0.1) == expected
    assert [finding.claim for finding in study.findings(table)] == ["N4", "N4"]
    drawn = study.figures(table)
    assert set(drawn) == {"cuts", "swaps"}
    for each in drawn.values():
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in each.axes)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("pi3", "needs a camera token in the blocks where the views meet, and m has register0"),
        ("mast3r", "and m has no special tokens there"),
        ("posed-dust3r", "needs a model that states cameras, and m states none"),
    ],
)
def test_a_model_that_lacks_the_token_or_the_cameras_is_told_so(name: str, lacks: str) -> None:
    study, model = CameraToken(), EXAMPLES[name]()
    study.choose_views(model)
    with pytest.raises(LackingError, match=lacks):
        study.check(ModelUnderTest(model, "m"))
