import numpy as np
import pandas as pd
import pytest

from prob3r.rooms import Rooms
from prob3r.runs.edits import TOKEN_MODES
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding
from prob3r.studies.registers import PATCHES, REGISTERS, Registers
from tests.models.examples import EXAMPLES


def made(zero: float, mean: float, noise: float, resample: float) -> list[Finding]:
    """Forty scenes with given losses by mode, in any order, with a bit of noise."""
    draw = np.random.default_rng(0)
    rows = []
    for tokens in (REGISTERS, PATCHES):
        for mode, each in zip(TOKEN_MODES, (zero, mean, noise, resample), strict=True):
            for pair in range(40):
                loss = each + 0.001 * draw.standard_normal()
                rows.append((tokens, mode, pair, "points auc@30", 0.9, -loss))
                rows.append((tokens, mode, pair, "pointmap_error", 1.0, np.expm1(loss)))
    columns = ["tokens", "mode", "pair", "metric", "clean", "value"]
    table = pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)
    return Registers().findings(table)


def test_zero_that_costs_more_than_every_replacement_overstates() -> None:
    cameras, points = made(0.4, 0.01, 0.1, 0.02)
    assert (cameras.verdict, points.verdict) == ("supported", "supported")
    assert cameras.effect == pytest.approx(0.4, abs=0.01)
    assert "noise +0.100" in cameras.control
    assert (cameras.claim, cameras.pairs) == ("N8", 40)


def test_zero_that_costs_nothing_or_less_does_not() -> None:
    assert [f.verdict for f in made(0.005, 0, 0, 0)] == ["not supported"] * 2
    assert [f.verdict for f in made(0.2, 0.1, 0.3, 0.1)] == ["not supported"] * 2


def test_zero_that_costs_as_much_as_one_of_them_is_open() -> None:
    assert [f.verdict for f in made(0.3, 0.1, 0.3, 0.1)] == ["mixed"] * 2


@pytest.mark.parametrize("name", ["vggt", "pi3"])
def test_the_study_runs_and_its_figure_has_units(name: str) -> None:
    study, tested = Registers(), ModelUnderTest(EXAMPLES[name](), "m")
    study.views = 3
    study.check(tested)
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    study.prepare(tested, rooms)
    table = study.measure(tested, rooms.batch([0, 1]))
    assert set(table.tokens) == {REGISTERS, PATCHES}
    assert set(table["mode"]) == set(TOKEN_MODES)
    assert table.value.abs().max() > 1e-3
    assert [finding.claim for finding in study.findings(table)] == ["N8", "N8"]
    drawn = study.figures(table)["modes"]
    assert len(drawn.axes) == 4
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in drawn.axes)


@pytest.mark.parametrize(("name", "has"), [("depth-anything-3", "camera"), ("dust3r", "no")])
def test_a_model_without_registers_is_told_so(name: str, has: str) -> None:
    study, model = Registers(), EXAMPLES[name]()
    study.choose_views(model)
    with pytest.raises(LackingError, match=f"needs register tokens .* and m has {has}"):
        study.check(ModelUnderTest(model, "m"))
