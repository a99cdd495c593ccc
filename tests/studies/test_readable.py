"""What can be read where: the rules on made-up tables, and a small model from end to end."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.measures.controls import SHUFFLED
from prob3r.models import DUSt3RConfig, random
from prob3r.probes import settings as settings_module
from prob3r.probes.targets import TARGETS
from prob3r.rooms import Rooms
from prob3r.scenes.source import Subset
from prob3r.studies.framework.conduct import conduct
from prob3r.studies.framework.tested import MODEL, ModelUnderTest
from prob3r.studies.readable import OF_TWO_VIEWS, Readable
from prob3r.studies.readable.rows import (
    ENCODER,
    MEAN,
    POINTS,
    RANDOM,
    SAME_PLACE,
    level,
    skill,
    table_of_sites,
)

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
SITES = ("dec2.embed", "dec2.0.mlp", "dec2.1.mlp")
TOLD = {MODEL: 2.0, RANDOM: 6.0, SHUFFLED: 5.0, ENCODER: 4.0, MEAN: 8.0}


def made(levels: dict[str, float], name: str = "match") -> pd.DataFrame:
    """Forty pairs with given errors by source; held-out scenes chose the middle site."""
    draw, rows = np.random.default_rng(0), []
    for source, value in levels.items():
        alone = source in (MEAN, SAME_PLACE)
        for site in ("",) if alone else ("enc2.0.mlp",) if source == ENCODER else SITES:
            more = 0 if alone or site != SITES[-1] else -1  # the last site is better: no matter
            for pair in range(40):
                value_here = value + more + 0.1 * draw.standard_normal()
                chosen = site not in (SITES[0], SITES[2])
                metric = TARGETS[name].measures[0]
                rows.append((source, name, metric, site, pair, value_here, chosen))
    columns = ["source", "target", "metric", "site", "pair", "value", "chosen"]
    return pd.DataFrame(rows, columns=columns)


def test_a_target_that_beats_all_its_controls_is_read_and_of_both_views() -> None:
    read, both = Readable().findings(made(TOLD))
    assert (read.statement, read.verdict) == ("Probes of the trunk read matches", "supported")
    assert (both.statement, both.verdict) == ("It takes both views to read matches", "supported")
    assert read.effect == pytest.approx(-4, abs=0.1)  # at the chosen site, not at the best one
    assert both.effect == pytest.approx(-3, abs=0.1)
    assert read.control.startswith("error 2.0")
    assert "dec2.0.mlp, which held-out scenes chose" in read.control
    assert (read.pairs, both.pairs) == (40, 40)


@pytest.mark.parametrize(
    ("levels", "verdicts"),
    [
        ({RANDOM: 1.9}, ["not supported", "supported"]),
        ({MEAN: 1.5}, ["not supported", "supported"]),
        ({SHUFFLED: 1.5}, ["supported", "not supported"]),
        ({ENCODER: 1.5}, ["supported", "not supported"]),
        ({SAME_PLACE: 1.5}, ["supported", "not supported"]),
        ({SAME_PLACE: 4.5}, ["supported", "supported"]),
        ({RANDOM: 2.05}, ["mixed", "supported"]),
        ({ENCODER: 2.05}, ["supported", "mixed"]),
    ],
)
def test_each_control_alone_can_refute(levels: dict[str, float], verdicts: list[str]) -> None:
    assert [f.verdict for f in Readable().findings(made(TOLD | levels))] == verdicts


def test_what_one_view_shows_is_not_asked_for_two() -> None:
    (read,) = Readable().findings(made(TOLD, "depth"))
    assert read.verdict == "supported"
    assert "encoder 3.971" in read.control
    assert "shuffled 4.982" in read.control
    table = made(TOLD)
    table.loc[table.source == SHUFFLED, "value"] = np.nan
    _, both = Readable().findings(table)
    assert both.verdict == "mixed"
    assert "no pair has a shuffled control" in both.control


def test_the_share_that_is_gone() -> None:
    names, sites, shares = skill(made(TOLD))
    assert (names, sites) == (["match"], list(SITES))
    assert shares[0].tolist() == pytest.approx([1 - 2 / 8, 1 - 2 / 8, 1 - 1 / 8], abs=0.02)
    table = table_of_sites(made(TOLD))
    row = table[(table.source == MODEL) & table.chosen].iloc[0]
    assert row.site == SITES[1]
    assert row.low < row.value < row.high


@pytest.fixture(scope="module")
def conducted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("readable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(settings_module, "HELD_PAIRS", 12)
        patch.setattr("prob3r.studies.readable.SCENES", 60)
        rooms = Subset(Rooms("test", (32, 32), compile=False), range(6))
        tested = ModelUnderTest(random(CONFIG, seed=1), "m")
        result = conduct(Readable(), tested, rooms, 6, folder, "rooms:test")
    return folder / "readable", result.table


def test_every_target_is_measured_at_every_site(conducted: tuple[Path, pd.DataFrame]) -> None:
    folder, table = conducted
    assert set(table.target) == set(TARGETS)
    sites = [
        "dec2.embed",
        *(f"dec2.{b}.{s}" for b in (0, 1) for s in ("self_attn", "cross_attn", "mlp")),
    ]
    for source in (MODEL, RANDOM, SHUFFLED):
        assert list(dict.fromkeys(table[table.source == source].site)) == sites
    assert set(table[table.source == ENCODER].site) == {"enc2.0.mlp"}
    assert set(table[table.source == SAME_PLACE].target) == {"match"}
    assert set(table[table.source == POINTS].target) == {"instance"}
    chosen = table[(table.source == MODEL) & table.chosen]
    assert chosen.groupby("target").site.nunique().eq(1).all()
    assert table[table.metric == "PCK@1"].value.dropna().between(0, 1).all()
    assert (table.value.dropna() >= 0).all()
    assert {path.name for path in folder.glob("*.png")} == {"targets.png", "overview.png"}


def test_the_findings_name_every_target(conducted: tuple[Path, pd.DataFrame]) -> None:
    found = Readable().findings(conducted[1])
    assert len(found) == len(TARGETS) + len(OF_TWO_VIEWS)
    statements = [f.statement for f in found if "Probes" in f.statement]
    assert statements == [f"Probes of the trunk read {each.title}" for each in TARGETS.values()]


def test_the_errors_are_those_of_the_banks(conducted: tuple[Path, pd.DataFrame]) -> None:
    """The pointmap error of a pair, from the points that its bank decodes."""
    from prob3r.geometry import normalise, patchify
    from prob3r.probes import load_probes
    from prob3r.runs.trace import trace

    folder, table = conducted
    (file,) = (folder.parent / "cache").rglob("ridge-pointmap-truth-*.safetensors")
    pair = Rooms("test", (32, 32), compile=False).batch([2])
    run = trace(random(CONFIG, seed=1), pair, "dec2.1.mlp")
    points = load_probes(file).decode(run["dec2.1.mlp"]).points
    distance = (points - normalise(pair.points, pair.valid)[1]).norm(dim=-1)
    whole = patchify(pair.valid[1].float()[..., None], 8).flatten(2).all(-1)
    expected = patchify(distance[..., None], 8)[whole].mean()
    rows = table[(table.target == "pointmap") & (table.site == "dec2.1.mlp") & (table.pair == 2)]
    assert rows[rows.source == MODEL].value.item() == pytest.approx(expected.item(), rel=1e-3)


def test_scenes_without_objects_are_read_without_instances(
    conducted: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setenv("XDG_CACHE_HOME", str(conducted[0].parent / "cache"))
    monkeypatch.setattr("prob3r.studies.readable.SCENES", 60)
    rooms = Rooms("test", (32, 32), compile=False)
    tested, study = ModelUnderTest(random(CONFIG, seed=1), "m"), Readable()
    study.prepare(tested, Subset(rooms, range(2)))
    bare = rooms.batch(range(2)).with_each(lambda view: replace(view, labels=None))
    with torch.no_grad():
        table = study.measure(tested, bare)
    assert set(table.target) == set(TARGETS) - {"instance"}
    assert (
        table.pair.dtype == int
    )  # rows that are missing leave the numbers of the pairs as they are
    with pytest.raises(Prob3rError, match="no pairs to read; give at least one"):
        study.prepare(tested, Subset(rooms, []))


def test_levels_are_at_the_chosen_site_unless_another_is_named() -> None:
    rows = made(TOLD)
    assert level(rows, MODEL).site == SITES[1]
    assert level(rows, MODEL, SITES[2]).errors.mean().item() == pytest.approx(1, abs=0.05)
