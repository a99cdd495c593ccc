import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.measures.tokens import CUTS
from prob3r.models import DUSt3RConfig, PosedDUSt3R, random
from prob3r.rooms import Rooms
from prob3r.scenes.source import Subset
from prob3r.studies.framework.tested import MODEL, POSITIVE, ModelUnderTest
from prob3r.studies.pose import Pose
from prob3r.studies.pose.contrasts import weighed_contrast
from prob3r.studies.pose.knockouts import ALL, BLOCK, HEAD, ISOLATED, OUTPUTS, REST, STRENGTH

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
METRICS = ("rotation_error", "translation_error", "shape_error", "pointmap_error")
Effects = dict[tuple[str, str], tuple[float, float, float]]
"""By source and scope: the effect of the cut and of its controls in count and mass."""

SMALL: Effects = {(MODEL, ISOLATED): (0.5, 0.4, 0.5), (POSITIVE, ISOLATED): (40, 1, 2)}


def made(effects: Effects, sinks: int = 3) -> pd.DataFrame:
    """Forty pairs with given effects on every error, and a bit of noise."""
    draw = np.random.default_rng(0)
    rows = []
    columns = ["source", "scope", "mode", "cut", "sublayer", "block", "head", "pair", "metric"]
    sources = {source for source, _ in effects}
    given = {(source, scope): (0.0, 0.0, 0.0) for source in sources for scope in (ALL, REST)}
    for (source, scope), three in (given | effects).items():
        for cut, effect in zip(CUTS, three, strict=True):
            for mode in ("mask", "zero"):
                for metric in METRICS:
                    for pair in range(40):
                        noisy = effect + 0.1 * draw.standard_normal()
                        rows.append((source, scope, mode, cut, "", -1, -1, pair, metric, noisy))
    for head in range(8):
        where = ("self_attn" if head < 4 else "cross_attn", head % 2, head // 2 % 2)
        for pair in range(40):
            rows.append(
                (MODEL, STRENGTH, "", "", *where, pair, "times", 6.0 if head < sinks else 2)
            )
            rows += [
                (MODEL, HEAD, "mask", cut, *where, pair, METRICS[0], draw.standard_normal())
                for cut in CUTS
                if head < sinks
            ]
            rows += [
                (MODEL, OUTPUTS, mode, "", where[0], where[1], -1, pair, METRICS[0], 1.0)
                for mode in ("zero", "mean", "resample")
                if where[2] == 0
            ]
    for block in range(2):
        for cut in CUTS:
            for pair in range(40):
                rows.append((MODEL, BLOCK, "mask", cut, "", block, -1, pair, METRICS[0], 0.5))
    table = pd.DataFrame(rows, columns=[*columns, "value"])
    strong = (table.scope == STRENGTH) & (table.value > 5)
    table["sinks"] = strong | ((table.scope != STRENGTH) & bool(sinks))
    return table.assign(tokens=3.0, mass=0.2)


def verdicts(effects: Effects) -> list[str]:
    return [finding.verdict for finding in Pose().findings(made(effects))]


def test_a_small_effect_supports_the_claim_if_the_twin_breaks() -> None:
    hardly, positive, _ = Pose().findings(made(SMALL))
    assert (hardly.verdict, positive.verdict) == ("supported", "supported")
    assert positive.effect == pytest.approx(38, abs=0.1)
    assert hardly.effect == pytest.approx(0, abs=0.1)
    assert "the same cut breaks mini-vggt" in hardly.control
    assert hardly.pairs == 40


@pytest.mark.parametrize(
    ("three", "verdict"),
    [
        ((1.0, 0.1, 0.1), "supported"),  # stands out, and is small
        ((30.0, 5.0, 31.0), "supported"),  # large, and so is one control
        ((30.0, 5.0, 6.0), "not supported"),
        ((2.0, 0.5, 0.5), "mixed"),  # stands out, and may be either
    ],
)
def test_a_large_effect_counts_against_it_if_the_controls_do_not_share_it(
    three: tuple[float, float, float], verdict: str
) -> None:
    assert verdicts(SMALL | {(MODEL, ISOLATED): three})[0] == verdict


@pytest.mark.parametrize("three", [(4.0, 0.0, 0.0), (40.0, 1.0, 39.0), (0.0, 0.0, 0.0)])
def test_a_twin_that_does_not_break_leaves_the_method_in_doubt(
    three: tuple[float, float, float],
) -> None:
    found = Pose().findings(made(SMALL | {(POSITIVE, ISOLATED): three}))
    assert [f.verdict for f in found[:2]] == ["mixed", "not supported"]
    assert "cannot tell" in found[0].control


def test_without_a_twin_the_claim_stays_open() -> None:
    hardly, _ = Pose().findings(made({(MODEL, ISOLATED): (0.5, 0.4, 0.5)}))
    assert hardly.verdict == "mixed"
    assert "no mini-vggt" in hardly.control


def test_without_marked_tokens_there_is_nothing_to_say() -> None:
    hardly, *_ = Pose().findings(made({(MODEL, ALL): (0, 0, 0), (POSITIVE, ISOLATED): (40, 1, 2)}))
    assert (hardly.verdict, hardly.pairs) == ("mixed", 0)


@pytest.mark.parametrize(
    ("every", "rest", "verdict"),
    [
        ((0.5, 0.5, 0.5), (30.0, 3.0, 3.0), "supported"),
        ((9.0, 0.5, 0.5), (8.0, 3.0, 3.0), "not supported"),
        ((9.0, 0.5, 0.5), (30.0, 3.0, 3.0), "mixed"),
    ],
)
def test_sinks_are_held_against_all_other_keys(
    every: tuple[float, float, float], rest: tuple[float, float, float], verdict: str
) -> None:
    effects = SMALL | {(MODEL, ALL): every, (MODEL, REST): rest}
    found = Pose().findings(made(effects))[-1]
    assert found.verdict == verdict
    assert "3 of 8 heads" in found.statement
    assert "takes 6.0 times" in found.control


def test_stand_ins_for_sinks_are_called_so() -> None:
    found = Pose().findings(made(SMALL, sinks=0))[-1]
    assert "0 of 8 heads" in found.statement
    assert "stands in" in found.statement


def test_a_contrast_is_that_of_the_pairs() -> None:
    table = made(SMALL | {(MODEL, ISOLATED): (9.0, 2.0, 4.0)})
    found = weighed_contrast(table, MODEL, ISOLATED)
    assert found is not None
    assert found.contrast.effect.value == pytest.approx(9, abs=0.1)
    assert found.contrast.over_count.value == pytest.approx(7, abs=0.1)
    assert found.contrast.over_mass.value == pytest.approx(5, abs=0.1)
    assert found.contrast.by_more_than(4.0)
    assert not found.contrast.by_more_than(6.0)
    assert weighed_contrast(table, MODEL, "nothing") is None


def test_a_tiny_model_and_its_twin_from_end_to_end() -> None:
    model = random(CONFIG, seed=1)
    twin = PosedDUSt3R.from_twin(model).eval()
    rooms = Subset(Rooms("test", (32, 32), compile=False), range(4))
    study, tested = Pose(), ModelUnderTest(model, "m", references={POSITIVE: twin})
    study.prepare(tested, rooms)
    with torch.no_grad():
        table = study.measure(tested, rooms.batch(range(4)))
    assert set(table.source) == {MODEL, POSITIVE}
    assert table.pair.between(0, 3).all()
    assert len(study.findings(table)) == 3
    assert set(study.figures(table)) == {"cuts", "heads", "blocks"}


def test_the_figures_have_units_and_controls() -> None:
    drawn = Pose().figures(made(SMALL))
    cuts = drawn["cuts"]
    assert len(cuts.axes) == 6
    assert "(degrees)" in cuts.axes[0].get_ylabel()
    (legend,) = cuts.legends
    assert len(legend.get_texts()) == 3
    assert len(Pose().figures(made({(MODEL, ISOLATED): (1, 1, 1)}))["cuts"].axes) == 3
