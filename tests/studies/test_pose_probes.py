from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.geometry import median, rotation_angle
from prob3r.models import DUSt3RConfig, PosedDUSt3R, random
from prob3r.probes import perceptrons
from prob3r.probes.tokens import BEST, LINEAR, MLP, POOLED
from prob3r.rooms import Rooms
from prob3r.scenes.source import Subset
from prob3r.studies.framework.tested import MODEL, POSITIVE, ModelUnderTest
from prob3r.studies.pose_probes import (
    AVERAGE,
    CAMERA,
    IDENTITY,
    OUTPUT,
    RANDOM,
    SHUFFLED,
    PoseProbes,
    at_last_site,
)

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
SITES = ("dec2.embed", "dec2.0.mlp", "dec2.1.mlp")
Levels = dict[tuple[str, str], float]


def made(levels: Levels, average: float = 40.0) -> pd.DataFrame:
    """Forty pairs with given errors of MLPs by source and token, and a bit of noise."""
    draw = np.random.default_rng(0)
    rows = []
    for (source, token), level in levels.items():
        for probe, more in ((LINEAR, 3.0), (MLP, 0.0)):
            for site in SITES:
                for pair in range(40):
                    error = level + more + 0.1 * draw.standard_normal()
                    rows.append((source, probe, token, site, pair, error))
    for pair in range(40):
        rows.append((MODEL, AVERAGE, "", "", pair, average))
        rows += [(source, OUTPUT, "", "head", pair, 8.0) for source in {s for s, _ in levels}]
    table = pd.DataFrame(rows, columns=["source", "probe", "token", "site", "pair", "value"])
    both = [table.assign(metric=metric) for metric in ("rotation_error", "translation_error")]
    return pd.concat(both, ignore_index=True)


POOLS: Levels = {(MODEL, BEST): 25, (MODEL, "corner"): 35, (MODEL, POOLED): 12}
TWIN: Levels = {(POSITIVE, CAMERA): 9, (POSITIVE, BEST): 25, (POSITIVE, POOLED): 12}


def test_pooled_tokens_that_alone_tell_the_pose_are_found_to() -> None:
    pooled, camera = PoseProbes().findings(made(POOLS | TWIN))
    assert (pooled.verdict, camera.verdict) == ("supported", "supported")
    assert pooled.effect == pytest.approx(13, abs=0.1)
    assert camera.effect == pytest.approx(-16, abs=0.1)
    assert "best patch (best, mlp)" in pooled.control
    assert pooled.pairs == 40


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({(MODEL, BEST): 12.0}, "not supported"),
        ({(MODEL, BEST): 13.0}, "mixed"),  # worse, by less than the margin
        ({(MODEL, "corner"): 11.0}, "not supported"),
        ({(MODEL, POOLED): 45.0, (MODEL, BEST): 60.0, (MODEL, "corner"): 60.0}, "not supported"),
    ],
)
def test_a_token_that_tells_as_much_speaks_against_it(levels: Levels, verdict: str) -> None:
    assert PoseProbes().findings(made(POOLS | TWIN | levels))[0].verdict == verdict


@pytest.mark.parametrize(("level", "verdict"), [(30.0, "mixed"), (41.0, "not supported")])
def test_a_camera_token_that_does_not_tell_leaves_it_open(level: float, verdict: str) -> None:
    pooled, camera = PoseProbes().findings(made(POOLS | TWIN | {(POSITIVE, CAMERA): level}))
    assert (pooled.verdict, camera.verdict) == ("mixed", verdict)
    assert "do not find" in pooled.control


def test_without_a_twin_it_stays_open() -> None:
    (pooled,) = PoseProbes().findings(made(POOLS))
    assert pooled.verdict == "mixed"
    assert "no mini-vggt" in pooled.control


def test_the_better_probe_counts() -> None:
    table = made(POOLS)
    found = at_last_site(table, MODEL, (BEST, "corner"))
    assert found.what == "best, mlp"
    assert found.errors.mean().item() == pytest.approx(25, abs=0.1)


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STEPS": 20, "BATCH": 8}.items():
            patch.setattr(perceptrons, name, value)
        for name, value in {"FITTED": 24, "HELD_OUT": 8, "SINK_ROOMS": 4}.items():
            patch.setattr(f"prob3r.studies.pose_probes.{name}", value)
        model = random(CONFIG, seed=1)
        deeper = random(replace(CONFIG, dec_depth=CONFIG.dec_depth + 1), seed=1)
        twin = PosedDUSt3R.from_twin(deeper).eval()
        study = PoseProbes()
        tested = ModelUnderTest(model, "m", {}, random(CONFIG, seed=2), {POSITIVE: twin})
        rooms = Subset(Rooms("test", (32, 32), compile=False), range(4))
        study.prepare(tested, rooms)
        with torch.no_grad():
            return study.measure(tested, rooms.batch(range(4)))


def test_all_tokens_of_all_models_are_read(measured: pd.DataFrame) -> None:
    assert set(measured.source) == {MODEL, RANDOM, SHUFFLED, POSITIVE}
    read = measured[measured.token != ""]
    assert list(dict.fromkeys(read[read.source == MODEL].site)) == list(SITES)
    assert read[read.source == POSITIVE].site.iloc[-1] not in SITES
    tokens = {BEST, "sink", "centre", "corner", POOLED}
    assert set(read[read.source == MODEL].token) == tokens
    assert set(read[read.source == POSITIVE].token) == tokens | {CAMERA}
    assert measured.value.between(0, 180).all()
    findings = PoseProbes().findings(measured)
    assert [finding.pairs for finding in findings] == [4, 4]


def test_the_identity_pose_stands_beside_the_mean_pose(measured: pd.DataFrame) -> None:
    pair = Rooms("test", (32, 32), compile=False).batch(range(4))
    rows = measured[measured.probe == IDENTITY].set_index("metric")
    turned = rotation_angle(pair.view2_to_view1[:, :3, :3])
    assert rows.value["rotation_error"].tolist() == pytest.approx(turned.tolist(), abs=1e-3)
    assert rows.value["translation_error"].tolist() == [180] * 4
    (finding, *_) = PoseProbes().findings(measured)
    assert f"{IDENTITY} {median(turned):.2f} [" in finding.control


def test_the_figures_have_units(measured: pd.DataFrame) -> None:
    drawn = PoseProbes().figures(measured)
    assert [len(figure.axes) for figure in drawn.values()] == [4, 2]
    assert "rotation error (degrees)" in drawn["blocks"].axes[0].get_ylabel()
    assert "rotation error (degrees)" in drawn["tokens"].axes[0].get_xlabel()


def test_pairs_are_needed() -> None:
    rooms = Subset(Rooms("test", (32, 32), compile=False), [])
    with pytest.raises(Prob3rError, match="at least one"):
        PoseProbes().prepare(ModelUnderTest(random(CONFIG, seed=1), "m"), rooms)
