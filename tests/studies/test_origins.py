from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.measures.heads import MEAN
from prob3r.models import DUSt3R, DUSt3RConfig, PosedDUSt3R, random
from prob3r.rooms import Rooms
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.origins import CHECKPOINT, TESTED, VARIANT, Origins

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
BLOCKS, PAIRS = 4, 40
MATCHING, PLACE, CONTROL, NOISE = 0.6, 0.1, 0.12, 0.01

Heads = Mapping[int, tuple[int, ...]]
"""Numbers of checkpoints, and the blocks in which a head matches then."""


def rows_of(model: str, role: str, blocks: tuple[int, ...], rotation: float) -> pd.DataFrame:
    """One head of every block in `blocks` matches; the control turns view 2 by 40 degrees."""
    draw = np.random.default_rng(len(model) + sum(blocks))
    parts = []

    def add(source: str, block: int | None, head: str | None, metric: str, value: float) -> None:
        values = value * (1 + NOISE * draw.standard_normal(PAIRS))
        about = {"source": source, "block": block, "head": head, "metric": metric}
        parts.append(pd.DataFrame(about | {"pair": range(PAIRS), "value": values}))

    for source in ("model", "shuffled"):
        for block in range(BLOCKS):
            other = PLACE if source == "model" else CONTROL
            best = MATCHING if source == "model" and block in blocks else other
            for head, value in (("0", other), ("1", best), (MEAN, best)):
                add(source, block, head, "pck@1", value)
        add(source, None, None, "rotation_error", rotation if source == "model" else 40)
    return pd.concat(parts).assign(model=model, role=role)


def made(heads: Heads, rotation: Mapping[int, float], **others: tuple[int, ...]) -> pd.DataFrame:
    """checkpoints with matching heads and rotation errors, and other models."""
    parts = [
        rows_of(f"m-0-{1000 * at}", CHECKPOINT, heads.get(at, ()), rotation[at]) for at in rotation
    ]
    for name, blocks in others.items():
        role = TESTED if name == "m" else VARIANT
        parts.append(rows_of(name, role, blocks, 10))
    return pd.concat(parts, ignore_index=True)


ROTATION = {1: 44, 2: 44, 3: 20, 4: 10}  # the plateau breaks at 3


@pytest.mark.parametrize(
    ("heads", "verdicts", "effects"),
    [
        ({2: (1,), 3: (1,), 4: (0, 1)}, ("supported", "not supported"), (1, -1)),
        ({1: (0, 1), 2: (1, 3), 3: (0, 1), 4: (0, 1)}, ("supported", "supported"), (2, 2)),
        ({3: (0, 1), 4: (0, 1)}, ("mixed", "mixed"), (0, 0)),
        ({1: (0, 1), 2: (), 3: (1,), 4: (1,)}, ("mixed", "mixed"), (0, None)),
        ({1: (0, 1), 2: (0, 1)}, ("mixed", "mixed"), (None, None)),
    ],
)
def test_heads_are_held_against_the_plateau(
    heads: Heads, verdicts: tuple[str, str], effects: tuple[float | None, float | None]
) -> None:
    findings = Origins().findings(made(heads, ROTATION))
    assert tuple(finding.verdict for finding in findings) == verdicts
    for finding, effect in zip(findings, effects, strict=True):
        if effect is None:
            assert np.isnan([finding.effect, finding.low, finding.high]).all()
        else:
            assert (finding.effect, finding.low, finding.high) == (effect, effect, effect)
        assert finding.pairs == PAIRS
        assert "ends at 3.0 thousand pairs" in finding.control


def test_a_plateau_that_comes_back_or_stays_is_not_broken() -> None:
    heads = {1: (0, 1), 2: (0, 1), 3: (0, 1), 4: (0, 1)}
    (first, _) = Origins().findings(made(heads, ROTATION | {1: 10}))
    assert first.effect == 2
    (first, _) = Origins().findings(made(heads, ROTATION | {4: 44}))
    assert first.verdict == "mixed"
    assert "ends at no checkpoint" in first.control


@pytest.fixture(scope="module")
def tested() -> ModelUnderTest:
    references: dict[str, DUSt3R] = {
        name: random(CONFIG, seed)
        for seed, name in enumerate(("variant", "m-1-8", "m-0-16", "m-1-4"))
    }
    references["posed"] = PosedDUSt3R(CONFIG)
    return ModelUnderTest(random(CONFIG, 9), "m", references=references)


def test_every_comparable_model_is_measured(tested: ModelUnderTest) -> None:
    with torch.no_grad():
        table = Origins().measure(tested, Rooms("test", (32, 32), compile=False).batch(range(3)))
    assert list(table.model.unique()) == ["m", "m-0-16", "m-1-4", "m-1-8", "variant"]
    roles = table.groupby("model").role.unique().map(list).to_dict()
    along = {name: [CHECKPOINT] for name in ("m-0-16", "m-1-4", "m-1-8")}
    assert roles == {"m": [TESTED], "variant": [VARIANT]} | along
    counts = table.groupby(["model", "source", "metric"]).size().unstack()
    assert set(counts["pck@1"]) == {3 * 2 * 3}  # pairs, blocks, heads with their mean
    assert set(counts["cycle consistency"]) == {3 * 2 * 3}
    assert set(counts["rotation_error"]) == {3}
    own = table[(table.metric == "rotation_error") & (table.model == "m")]
    true, shuffled = (own[own.source == s].value.to_numpy() for s in ("model", "shuffled"))
    assert (true != shuffled).all()
    assert Origins().figures(table)


def test_reference_models_are_needed(tested: ModelUnderTest) -> None:
    Origins().check(tested)
    lone = ModelUnderTest(tested.model, "m", references={"posed": tested.references["posed"]})
    with pytest.raises(
        LackingError, match="needs checkpoints of a training; give --checkpoints FOLDER"
    ):
        Origins().check(lone)


def test_the_figure_has_units_and_marks_the_variant() -> None:
    table = made({3: (0, 1), 4: (0, 1)}, ROTATION, m=(0, 1), variant=(2,))
    (drawn,) = Origins().figures(table).values()
    left, middle, right, bar = drawn.axes
    for axis in (left, middle, right):
        assert axis.get_xlabel()
        assert axis.get_ylabel()
    assert bar.get_ylabel()
    assert [t.get_text() for t in right.get_xticklabels()] == ["1", "2", "3", "4", "m", "variant"]
    counts = np.array([int(text.get_text()) for text in right.texts]).reshape(6, BLOCKS)
    assert counts.tolist() == [[0] * 4] * 2 + [[1, 1, 0, 0]] * 3 + [[0, 0, 1, 0]]
