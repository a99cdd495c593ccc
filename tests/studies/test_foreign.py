"""Models of every kind go through explain, evaluate and the studies: nothing knows DUSt3R."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from prob3r.measures.tokens import Sinks
from prob3r.models import Model, fingerprint, random
from prob3r.probes import SiteReader
from prob3r.report import explain
from prob3r.rooms import Rooms
from prob3r.runs.precision import Precision, running_in
from prob3r.runs.trace import Record, trace
from prob3r.scenes.source import Pairs, Scenes
from prob3r.studies import STUDIES, LackingError, ModelUnderTest, conduct
from prob3r.studies.evaluation import evaluate
from prob3r.training.probes import bank_for
from tests.checks import every
from tests.models.examples import EXAMPLES
from tests.models.joint import example, scene
from tests.studies.few import prepare_on_few

MODELS: dict[str, Callable[[], Model]] = {
    "pairs through an adapter": lambda: example("05_bring_your_own_model").model(),
    "joint attention through an adapter": lambda: example("06_many_views").model(),
    "vggt": EXAMPLES["vggt"],
}
OF_MORE = {"middle_blocks", "camera_token", "registers"}
"""Studies of more blocks, or of special tokens, than some of these models have."""


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Model:
    prepare_on_few(monkeypatch, steps=20)
    made: Model = MODELS[request.param]()
    return made


def bank_of(model: Model) -> SiteReader:
    _, bank = bank_for(model, "linear")
    bank.backbone = fingerprint(model)
    return bank


def test_it_is_explained_and_evaluated(model: Model) -> None:
    rooms, bank = Rooms("test", size=model.config.image_size, compile=False), bank_of(model)
    explanation = explain(model, rooms[2], bank, model_name="theirs")
    assert explanation.happened
    table = evaluate(model, rooms, 2, [bank])
    assert every(table[(table.source == "model") & (table.stratum == "all")].value >= 0)


@pytest.mark.parametrize(
    ("model", "precision"),
    [("joint attention through an adapter", "float32"), ("vggt", "bfloat16")],
    indirect=["model"],
)
def test_it_goes_through_the_studies(
    model: Model, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = model.config.image_size
    tested = ModelUnderTest(model, "theirs", {"linear": bank_of(model)}, random(model, 1))
    pairs: dict[str | None, Pairs] = {
        None: Rooms("test", size, compile=False),
        "lookalikes:test": Rooms("test", size, lookalikes=True, compile=False),
    }
    views = Rooms("test", size, compile=False, views=3)
    # Figures are made; to draw them would take longer than all the rest.
    monkeypatch.setattr(Figure, "savefig", lambda drawn, path, **_: Path(path).touch())
    lacking, tables = {}, {}
    for name, kind in STUDIES.items():
        if name == "fixed-correspondences":
            continue  # its pipeline takes no model; `evaluate` covers what it asks of one
        study, data = kind(), kind.data if kind.data in pairs else None
        study.batch = 4  # type: ignore[misc]
        study.choose_views(model, 3 if model.most_views is None else None)
        shown: Scenes[Any] = pairs[data] if study.views == 2 else views
        try:
            with running_in(precision, model, *filter(None, [tested.untrained])):
                result = conduct(study, tested, shown, 4, tmp_path, "rooms:test")
        except LackingError as error:
            lacking[name] = str(error)
            continue
        tables[name] = result.table
        assert result.findings
        neither = result.table.assign(easy=False, hard=False)  # as two pairs may be
        assert len(study.findings(neither)) == len(result.findings)
        drawn = {path.stem for path in (tmp_path / name).glob("*.png")}
        assert study.figures(neither).keys() == drawn
        assert (tmp_path / name / "findings.json").exists()
    many = set() if model.most_views is None else {"strangers"}
    assert lacking.keys() - OF_MORE == {"origins", "dictionaries", *many}
    assert lacking["origins"].count(".") == lacking["dictionaries"].count(".") == 1
    _has_numbers(tables)


def _has_numbers(tables: dict[str, pd.DataFrame]) -> None:
    """Check that each study measured something that is not constant."""
    heads = tables["correspondence"].query("metric == 'pck@1' and source == 'model'")
    assert heads.value.notna().any()
    effects = tables["correspondence"].query("metric == 'effect on pointmap_error'")
    assert (effects.value.abs() > 0).any()
    assert set(tables["roles"].kind) > {"self_attn"}
    cuts = tables["pose"].query("scope == 'all sinks' and metric == 'rotation_error'")
    assert (cuts.value.abs() > 0).any()
    assert set(tables["pose-probes"].token) >= {"best", "sink", "centre", "corner", "pooled"}
    assert tables["reliability"].query("metric == 'entropy'").value.between(0, 1.0001).all()
    assert tables["readable"].target.nunique() == 8
    shares = tables["look-alikes"].query("metric == 'attention'").value.dropna()
    assert shares.between(0, 1).all()


def test_five_views_are_explained_by_probes_of_pairs() -> None:
    model = MODELS["joint attention through an adapter"]()
    bank, views = bank_of(model), scene(5, scenes=1)
    found = explain(model, views, bank, model_name="joint").measurements
    assert found.views == 5
    assert sorted(found.finals) == [2, 3, 4, 5]
    assert {head.view for head in found.heads} == {2, 3, 4, 5}
    last = {view: found.curves[view]["pointmap_error"][-2] for view in range(2, 6)}
    assert len(set(last.values())) == 4  # no view is read in place of another
    assert all(isfinite(value) for value in last.values())


def test_a_bank_of_pairs_reads_each_further_view_with_the_probe_of_view_2() -> None:
    model = MODELS["joint attention through an adapter"]()
    bank, views = bank_of(model), scene(4)
    site = "dec4.1.global_mlp"
    record = trace(model, views, [site], output=False)[site]
    as_view_2 = Record.of(torch.Tensor(record), "dec2.1.global_mlp", record.grid, record.tokens)
    as_view_1 = Record.of(torch.Tensor(record), "dec1.1.global_mlp", record.grid, record.tokens)
    read = bank.decode(record).points
    assert torch.equal(read, bank.decode(as_view_2).points)
    assert not torch.equal(read, bank.decode(as_view_1).points)


def test_sinks_of_joint_attention_are_told_apart_by_view() -> None:
    model = MODELS["joint attention through an adapter"]()
    rooms = Rooms("test", model.config.image_size, compile=False)
    sinks = Sinks.find(model, rooms, 2, 2)
    tokens = 1 + 16
    assert {mass.shape[-1] for mass in sinks.mass.values()} == {tokens, 2 * tokens}
    assert sinks.of_view_2(model, rooms.size).shape == (tokens,)


def test_a_model_that_shows_no_attention_is_told_so(tmp_path: Path) -> None:
    model = MODELS["vggt"]()
    model.attention_sites = lambda views=2: []  # type: ignore[method-assign]
    tested = ModelUnderTest(model, "blind")
    with pytest.raises(LackingError, match="needs cross-attention or global attention of view 1"):
        conduct(STUDIES["pose"](), tested, Rooms("test"), 2, tmp_path, "rooms:test")
    assert not any(tmp_path.iterdir())
