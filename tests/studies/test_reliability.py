from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.probes import ProbeBank, SiteReader
from prob3r.reliability.check import Check
from prob3r.reliability.matchers import SIFT
from prob3r.reliability.prediction import (
    Bin,
    auroc,
    auroc_draws,
    auroc_interval,
    calibration_bins,
    calibration_error,
    cross_fitted,
    fit_logistic,
    redrawn,
    risk_coverage,
)
from prob3r.reliability.signals import (
    CHECK_GROUPS,
    EVERY_SIGNAL,
    GROUPS,
    SIGNALS,
    Signal,
    features,
    read_signals,
)
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies import reliability
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.reliability import Reliability
from prob3r.training.probes import bank_for

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def bank(model: DUSt3R) -> SiteReader:
    return bank_for(model, "mlp")[1]


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms("test", (32, 32), compile=False)


@pytest.fixture(scope="module")
def batch(rooms: Rooms) -> Pair:
    return rooms.batch(range(3))


def booleans(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


# Ranking


def test_auroc_by_hand() -> None:
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8])
    assert auroc(scores, booleans(0, 0, 1, 1)).item() == 0.75
    assert auroc(scores, booleans(0, 1, 0, 1)).item() == 1
    assert auroc(torch.ones(4), booleans(0, 1, 0, 1)).item() == 0.5
    assert auroc(torch.tensor([1.0, 1.0, 2.0]), booleans(0, 1, 1)).item() == 0.75
    assert auroc(scores, booleans(0, 0, 0, 0)).isnan()
    assert auroc(scores, booleans(1, 1, 1, 1)).isnan()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_couples_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    couples = list(product([s for s, y in rows if y], [s for s, y in rows if not y]))
    found = auroc(torch.tensor([float(s) for s, _ in rows]), booleans(*(y for _, y in rows)))
    if not couples:
        assert found.isnan()
        return
    right = sum(1.0 if yes > no else 0.5 if yes == no else 0.0 for yes, no in couples)
    assert found.item() == pytest.approx(right / len(couples))


def test_the_interval_of_the_auroc_holds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    outcome = torch.rand(200, generator=generator) < 0.3
    scores = torch.randn(200, generator=generator) + outcome
    found = auroc_interval(scores, outcome)
    assert 0.6 < found.low < found.value < found.high < 0.95
    assert found.value == auroc(scores, outcome).item()
    drawn = redrawn(200)[:3]
    each = torch.stack([auroc(scores[rows], outcome[rows]) for rows in drawn])
    torch.testing.assert_close(auroc_draws(scores, outcome)[:3], each)


def test_risk_by_hand() -> None:
    doubt = torch.tensor([0.9, 0.1, 0.5, 0.2])
    risk = risk_coverage(doubt, booleans(1, 0, 0, 1))
    torch.testing.assert_close(risk, torch.tensor([0, 1 / 2, 1 / 3, 1 / 2]))
    assert risk_coverage(doubt, booleans(1, 0, 1, 0)).tolist()[:2] == [0, 0]


# Fits


def test_the_fit_recovers_what_drew_the_outcomes() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40_000, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1])
    rows = (rows + torch.tensor([0.0, 5.0, -3.0])).double()
    chance = (1.5 * rows[:, 0] + 0.1 * (rows[:, 1] - 5) - 0.5).sigmoid()
    outcome = torch.rand(40_000, generator=generator, dtype=torch.double) < chance
    fit = fit_logistic(rows, outcome)
    wanted = torch.tensor([1.5, 1.0, 0.0]).double()
    torch.testing.assert_close(fit.weights, wanted, atol=0.06, rtol=0)
    assert fit.bias.item() == pytest.approx(-0.5, abs=0.06)
    assert (fit.probability(rows) - chance).abs().max() < 0.03


def test_the_fit_is_where_the_loss_is_level() -> None:
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.5], [2.0, 3.0], [4.0, 1.0], [5.0, 2.0]]).double()
    outcome = booleans(0, 0, 1, 1, 1)
    fit = fit_logistic(rows, outcome, ridge=2.0)
    x = (rows - fit.mean) / fit.spread
    missed = fit.probability(rows) - outcome.double()
    assert fit.weights.min() > 0.1
    assert (x.T @ missed + 2 * fit.weights).abs().max() < 1e-5
    assert missed.sum().abs() < 1e-5


def test_no_column_counts_backwards() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(200, 2, generator=generator).double()
    outcome = rows[:, 0] - rows[:, 1] + torch.randn(200, generator=generator) > 0
    fit, alone = fit_logistic(rows, outcome), fit_logistic(rows[:, :1], outcome)
    torch.testing.assert_close(fit.weights[1], torch.tensor(0.0).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(fit.weights[:1], alone.weights, atol=1e-3, rtol=0)


def test_the_fit_does_not_mind_units_and_columns_that_say_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 2, generator=generator).double()
    outcome = rows[:, 0] + torch.randn(60, generator=generator) > 0
    scaled = torch.cat([1000 * rows + 7, torch.full((60, 1), 3.0).double()], 1)
    one, other = fit_logistic(rows, outcome), fit_logistic(scaled, outcome)
    torch.testing.assert_close(one.probability(rows), other.probability(scaled), atol=1e-5, rtol=0)


def test_beyond_what_was_seen_nothing_grows() -> None:
    rows = torch.arange(10).double()[:, None]
    fit = fit_logistic(rows, rows[:, 0] > 4)
    far = torch.tensor([[9.0], [900.0], [torch.inf], [torch.nan]]).double()
    assert fit.probability(far).unique().numel() == 1
    assert fit.probability(-far[1:2]) == fit.probability(rows[:1])


def test_every_pair_is_judged_by_a_fit_that_never_saw_it() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(50, 2, generator=generator).double()
    outcome = rows[:, 0] + torch.randn(50, generator=generator) > 0
    before = cross_fitted(rows, outcome)
    outcome[20:30] = ~outcome[20:30]  # the third of five stretches
    after = cross_fitted(rows, outcome)
    torch.testing.assert_close(before[20:30], after[20:30])
    assert (before[:20] != after[:20]).all()


def test_bins_count_what_came_true() -> None:
    stated = torch.tensor([0.0, 0.05, 0.1, 0.95, 1.0]).double()
    bins = calibration_bins(stated, booleans(0, 1, 0, 1, 0))
    assert [b.pairs for b in bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert [b.failed for b in bins] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (bins[0].stated, bins[9].stated) == pytest.approx((0.025, 0.975))
    assert (bins[9].low, bins[9].high) == (0.9, 1.0)
    error = (2 * abs(0.5 - 0.025) + 1 * 0.1 + 2 * abs(0.5 - 0.975)) / 5
    assert calibration_error(bins) == pytest.approx(error)
    assert calibration_error([Bin(0.0, 1.0, 4, 1, 0.25)]) == 0


# Signals


class Scaled(DUSt3R):
    """A model whose pointmaps are another's, larger; its probes' are those of `larger`."""

    factor = 1.0

    def read(self, *states) -> Prediction:  # type: ignore[no-untyped-def]
        output = super().read(*states)
        one, two = output.points
        return Prediction((self.factor * one, self.factor * two), output.confidence)


def larger(bank: SiteReader, factor: float) -> SiteReader:
    def decode(record):  # type: ignore[no-untyped-def]
        found = ProbeBank.decode(bank, record)  # type: ignore[arg-type]
        return found._replace(points=factor * found.points)

    other = bank_for(random(CONFIG, seed=1), "mlp")[1]
    other.decode = decode  # type: ignore[method-assign]
    return other


def test_signals_do_not_mind_the_scale_of_a_prediction(
    model: DUSt3R, bank: SiteReader, batch: Pair
) -> None:
    other = Scaled(CONFIG).eval()
    other.load_state_dict(model.state_dict())
    before, _ = read_signals(other, batch, bank)
    other.factor = 7.5
    after, _ = read_signals(other, batch, larger(bank, 0.2))
    for name in SIGNALS:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=2e-3)


def test_signals_do_not_mind_the_truth(model: DUSt3R, bank: SiteReader, batch: Pair) -> None:
    bare = Pair(*(type(v)(v.image) for v in (batch.view1, batch.view2)))
    full, output = read_signals(model, batch, bank)
    without, _ = read_signals(model, bare, bank)
    assert list(full) == list(SIGNALS)
    for name in SIGNALS:
        assert full[name].shape == (3,)
        assert full[name].isfinite().all()
        assert full[name].equal(without[name])
    assert output.points[0].shape == (3, 32, 32, 3)


def test_a_pair_s_signals_are_its_own(model: DUSt3R, bank: SiteReader, batch: Pair) -> None:
    both, _ = read_signals(model, batch, bank)
    alone, _ = read_signals(model, batch[1], bank)
    for name in SIGNALS:
        torch.testing.assert_close(alone[name], both[name][1:2], rtol=1e-4, atol=1e-4)


def test_probes_of_early_sites_are_refused(model: DUSt3R, batch: Pair) -> None:
    early = ProbeBank(["dec1.embed", "dec2.embed"], bank_for(model, "mlp")[1].config)  # type: ignore[attr-defined]
    with pytest.raises(Prob3rError, match="second half"):
        read_signals(model, batch, early)


def test_doubt_grows_with_every_feature() -> None:
    values = {name: torch.tensor([0.2, 0.8]) for name in SIGNALS}
    grows = features(values).diff(dim=0)[0]
    assert [1 if step > 0 else -1 for step in grows] == [s.doubt for s in SIGNALS.values()]
    turn = list(SIGNALS).index("late_turn")
    assert grows[turn].item() == pytest.approx(np.log(4))
    assert set(GROUPS["all"]) == set(SIGNALS) == {*GROUPS["output"], *GROUPS["inside"]}


# The verdict


def made(
    helps: dict[str, float],
    pairs: int = 300,
    wrong: float = 0.3,
    signals: Mapping[str, Signal] = SIGNALS,
) -> pd.DataFrame:
    """Pairs whose signals are noise, and those of `helps` so much of the outcome."""
    draw = np.random.default_rng(0)
    failed = draw.random(pairs) < wrong
    rows = [pd.DataFrame({"metric": "rotation_error", "value": np.where(failed, 40.0, 5.0)})]
    for name, signal in signals.items():
        doubt = draw.standard_normal(pairs) + helps.get(name, 0.0) * failed
        value = signal.doubt * doubt
        value = np.exp(value) if signal.logarithmic else value
        rows.append(pd.DataFrame({"metric": name, "value": value}))
    table = pd.concat([part.assign(pair=range(pairs)) for part in rows], ignore_index=True)
    return table.assign(easy=table.pair % 2 == 0, hard=table.pair % 2 == 1)


def test_an_inside_that_knows_is_found_to() -> None:
    better, beyond = Reliability().findings(made({"cycle": 2.0, "confidence2": 0.5}))
    assert (better.verdict, beyond.verdict) == ("supported", "supported")
    assert 0.1 < better.low < better.effect < better.high
    assert better.pairs == 300
    assert "expected calibration error 0.0" in better.control


def test_what_the_output_shows_is_not_the_inside_s() -> None:
    better, beyond = Reliability().findings(made({"inliers": 2.0}))
    assert (better.verdict, beyond.verdict) == ("supported", "mixed")


def test_an_inside_that_only_adds_noise_is_found_out() -> None:
    few = made({"confidence2": 0.9}, pairs=60, wrong=0.25)
    better, _ = Reliability().findings(few)
    assert better.effect < 0.02
    assert better.verdict != "supported"


def test_a_check_that_knows_is_found_to() -> None:
    helps = {"check_turn": 2.0, "confidence2": 0.5}
    found = Reliability().findings(made(helps, signals=EVERY_SIGNAL))
    plain = Reliability().findings(made(helps))
    assert found[:2] == plain  # what is said of the run stays as it is
    alone, added = found[2:]
    assert (alone.verdict, added.verdict) == ("supported", "supported")
    assert "the independent check 0.9" in alone.control
    assert "independent check" not in found[0].control


def test_a_check_that_only_adds_noise_is_found_out() -> None:
    *_, alone, added = Reliability().findings(made({"confidence2": 2.0}, signals=EVERY_SIGNAL))
    assert alone.verdict == "not supported"
    assert added.verdict != "supported"
    assert added.effect < 0.01


def test_the_control_is_at_chance() -> None:
    better, _ = Reliability().findings(made({"cycle": 3.0}))
    told = better.control.split("outcomes of other pairs, ")[1]
    low, high = (float(end) for end in told.split("[")[1].split("]")[0].split(", "))
    assert low < 0.5 < high or abs(high - 0.5) < 0.05


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_without_both_outcomes_nothing_is_measurable(wrong: float) -> None:
    table = made({}, pairs=20, wrong=wrong)
    for finding in Reliability().findings(table):
        assert finding.verdict == "mixed"
        assert np.isnan([finding.effect, finding.low, finding.high]).all()
        assert f"{20 * int(wrong)} of 20 outcomes" in finding.control
    assert Reliability().figures(table) == {}


def test_pairs_without_a_pose_are_left_out() -> None:
    table = made({"cycle": 2.0})
    lost = (table.metric == "rotation_error") & (table.pair < 10)
    table.loc[lost, "value"] = np.nan
    better, _ = Reliability().findings(table)
    assert better.pairs == 290


def test_the_study_measures_every_signal_and_the_error(
    model: DUSt3R, bank: SiteReader, batch: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "is_installed", lambda matcher: False)
    with torch.no_grad():
        table = Reliability().measure(ModelUnderTest(model, "m", {"mlp": bank}), batch)
        errors = batch.errors_of(model(batch.view1.image, batch.view2.image).points)
    assert len(table) == 3 * (len(SIGNALS) + 1)
    found = table[table.metric == "rotation_error"].value.to_numpy()
    np.testing.assert_allclose(found, errors.rotation_error, rtol=1e-4)


def test_the_study_checks_rooms_in_larger_views(
    model: DUSt3R, bank: SiteReader, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIFT stands in for LightGlue, which not everybody has."""
    monkeypatch.setattr(reliability, "is_installed", lambda matcher: True)
    monkeypatch.setattr(reliability, "LIGHTGLUE", SIFT)
    seen: list[tuple[int, int]] = []

    def found(pairs: list[Pair], output: Prediction, matcher: str) -> list[Check]:
        assert matcher == SIFT
        seen.extend((pair.view1.size[0], pair.view1.fine.shape[-1]) for pair in pairs)
        return [Check(2, matcher, 9, 0, 5, 1.0, 1.0, np.nan, np.nan, False) for _ in pairs]

    monkeypatch.setattr(reliability, "check_pairs", found)
    study, tested = Reliability(), ModelUnderTest(model, "m", {"mlp": bank})
    study.prepare(tested, rooms)
    with torch.no_grad():
        table = study.measure(tested, rooms.batch(range(2)))
    assert seen == [(32, 128)] * 2
    assert table[table.metric == "check_turn"].value.tolist() == [15, 15]
    assert table[table.metric == "check_inliers"].value.tolist() == [1, 1]


def test_figures_name_the_check_where_there_is_one() -> None:
    drawn = Reliability().figures(made({"check_turn": 2.0}, signals=EVERY_SIGNAL))
    labels = [text.get_text() for text in drawn["signals"].axes[0].get_yticklabels()]
    assert len(labels) == len(EVERY_SIGNAL) + len(GROUPS) + len(CHECK_GROUPS)


def test_figures_name_every_signal_and_every_combination() -> None:
    drawn = Reliability().figures(made({"cycle": 2.0}))
    labels = [text.get_text() for text in drawn["signals"].axes[0].get_yticklabels()]
    assert len(labels) == len(SIGNALS) + len(GROUPS)
    assert [len(figure.axes) for figure in drawn.values()] == [1, 2]
