import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.measures.controls import SHUFFLED
from prob3r.models import fingerprint
from prob3r.probes import SiteReader
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies.framework.tested import MODEL, ModelUnderTest
from prob3r.studies.match_readout import (
    ATTENTION,
    FEATURES,
    METRICS,
    PCK,
    PIXELS,
    POINTS,
    MatchReadout,
    best_place,
    feature_sites,
)
from prob3r.training.probes import bank_for
from tests.models.examples import EXAMPLES

PAIRS = 40


def made(errors: dict[tuple[str, str], float], control: float = 50.0) -> pd.DataFrame:
    """End-point errors in pixels by way and site; those of the control are the same everywhere."""
    draw, rows = np.random.default_rng(0), []
    for pair in range(PAIRS):
        for (way, site), error in errors.items():
            for source, middle in ((MODEL, error), (SHUFFLED, control)):
                value = middle + draw.standard_normal()
                rows += [(pair, source, way, site, metric, value) for metric in METRICS]
    return pd.DataFrame(rows, columns=["pair", "source", "way", "site", "metric", "value"])


SITES = {(FEATURES, "enc2.embed"): 45.0, (FEATURES, "dec2.embed"): 40.0}


def test_what_holds_is_supported() -> None:
    attention = {(ATTENTION, "dec2.0.cross_attn"): 30.0, (ATTENTION, "dec2.1.cross_attn"): 9.0}
    table = made(SITES | attention | {(POINTS, "dec2.1.mlp"): 20.0, (FEATURES, "dec2.1.mlp"): 35.0})
    (found,) = MatchReadout().findings(table)
    assert found.verdict == "supported"
    assert found.effect == pytest.approx(35 - 9, abs=0.6)
    assert "dec2.1.cross_attn" in found.control
    assert "nearest probe points 20" in found.control or "nearest probe points 19" in found.control
    best = best_place(table, ATTENTION)
    assert best is not None
    assert best.site == "dec2.1.cross_attn"


def test_what_does_not_hold_is_not() -> None:
    (found,) = MatchReadout().findings(made(SITES | {(ATTENTION, "dec2.0.cross_attn"): 44.0}))
    assert found.verdict == "not supported"


def test_attention_that_is_no_better_than_its_control_leaves_it_open() -> None:
    table = made(SITES | {(ATTENTION, "dec2.0.cross_attn"): 9.0}, control=8.0)
    assert MatchReadout().findings(table)[0].verdict == "mixed"
    alike = made(SITES | {(ATTENTION, "dec2.0.cross_attn"): 40.0})
    assert MatchReadout().findings(alike)[0].verdict == "mixed"


def test_without_a_control_it_is_refused() -> None:
    table = made(SITES | {(ATTENTION, "dec2.0.cross_attn"): 9.0})
    table.loc[table.source == SHUFFLED, "value"] = np.nan
    with pytest.raises(Prob3rError, match="shuffled control"):
        MatchReadout().findings(table)


def rooms() -> Pair:
    return Rooms("test", (28, 28), compile=False).batch(range(3))


def bank_of(name: str) -> SiteReader:
    model, bank = bank_for(EXAMPLES[name](), "linear")
    bank.backbone = fingerprint(model)
    return bank


@pytest.mark.parametrize("name", ["vggt", "pi3", "dust3r", "croco"])
def test_models_with_and_without_pointmaps_are_read(name: str) -> None:
    model = EXAMPLES[name]()
    banks = {} if name == "croco" else {"linear": bank_of(name)}
    tested = ModelUnderTest(model, name, banks)
    study = MatchReadout()
    study.check(tested)
    with torch.no_grad():
        table = study.measure(tested, rooms())
    features = table[(table.way == FEATURES) & (table.source == MODEL) & (table.metric == PIXELS)]
    assert set(features.site) == {str(site) for site in feature_sites(model)}
    assert features.site.str.startswith("dec2").sum() == 3 * 3  # the input and two blocks
    attention = table[(table.way == ATTENTION) & (table.metric == PCK)]
    assert attention.value.dropna().between(0, 1).all()
    assert attention.site.nunique() == 2
    assert (POINTS in set(table.way)) == bool(banks)
    assert study.findings(table)[0].claim == "N9"


def test_the_figure_has_two_panels_with_units() -> None:
    errors = SITES | {(ATTENTION, "dec2.0.cross_attn"): 9.0, (FEATURES, "dec2.0.mlp"): 38.0}
    (drawn,) = MatchReadout().figures(made(errors)).values()
    assert [axis.get_ylabel() for axis in drawn.axes] == [PIXELS, PCK]
    assert drawn.axes[0].get_xticklabels()[0].get_text() == "enc input"
