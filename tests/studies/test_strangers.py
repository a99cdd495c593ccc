import pandas as pd
import pytest
import torch

from prob3r.measures.belonging import ATTENTION, BEST_PATCHES, INPUT, MEAN_FEATURES, SCORES
from prob3r.rooms import Rooms
from prob3r.scenes.strangers import with_strangers
from prob3r.studies.framework.tested import MODEL, LackingError, ModelUnderTest
from prob3r.studies.strangers import ALIKE, RANDOM, Strangers, blocks_of
from tests.models.examples import EXAMPLES

SCENES, VIEWS, BLOCKS = 60, 3, 3


def made(strength: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    """Doubts that lie so many standard deviations higher for strangers; 0 where nothing is said."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for source in (MODEL, RANDOM, ALIKE):
        for score in SCORES:
            for block in (*([] if score == ATTENTION else [INPUT]), *range(BLOCKS)):
                over = strength.get((source, score, block), 0.0)
                noise = torch.randn(SCENES, VIEWS, generator=draw)
                for pair in range(SCENES):
                    for view in range(VIEWS):
                        stranger = pair % 2 == 0 and view == pair % VIEWS
                        value = float(noise[pair, view]) + over * stranger
                        rows.append((pair, view + 2, stranger, source, score, block, value))
    return pd.DataFrame(
        rows, columns=["pair", "view", "stranger", "source", "score", "block", "value"]
    )


def test_what_holds_is_supported() -> None:
    last = {(s, score, 2): 4.0 for s in (MODEL, ALIKE) for score in SCORES}
    weak = {(MODEL, score, block): 1.0 for score in SCORES for block in (INPUT, 0, 1)}
    found = Strangers().findings(made(last | weak))
    assert [f.verdict for f in found] == ["supported"] * 6
    assert found[0].effect > 0.95
    assert found[0].pairs == SCENES
    assert {f.claim for f in found} == {"N5"}


def test_what_does_not_hold_is_not() -> None:
    middle = {(MODEL, score, block): 3.0 for score in SCORES for block in (INPUT, 1)}
    found = Strangers().findings(made(middle))
    assert [f.verdict for f in found] == ["not supported"] * 6


def test_what_random_weights_tell_as_well_leaves_the_claim_open() -> None:
    same = {
        (source, score, block): 2.0
        for source in (MODEL, RANDOM)
        for score in SCORES
        for block in (INPUT, *range(BLOCKS))
    }
    found = Strangers().findings(made(same | {(ALIKE, ATTENTION, 2): 3.0}))
    assert [f.verdict for f in found] == ["mixed"] * 6


def test_without_a_stranger_nothing_can_be_told() -> None:
    found = Strangers().findings(made({}).assign(stranger=False))
    assert {f.verdict for f in found} == {"mixed"}
    assert all(f.effect != f.effect for f in found)  # NaN


@pytest.mark.parametrize("name", ["vggt", "pi3", "depth-anything-3"])
def test_models_of_many_views_are_measured(name: str) -> None:
    model = EXAMPLES[name]()
    rooms = Rooms("test", (28, 28), compile=False, views=3)
    study, tested = Strangers(), ModelUnderTest(model, name)
    study.prepare(tested, rooms)
    scenes = rooms.batch(range(4))
    with torch.no_grad():
        table = study.measure(tested, scenes)
    assert set(table.source) == {MODEL, RANDOM, ALIKE}
    assert table.value.notna().all()
    one = table[(table.source == MODEL) & (table.score == BEST_PATCHES) & (table.block == 1)]
    assert len(one) == 4 * 2
    wanted = with_strangers(scenes).stranger[:, 1:]
    assert torch.equal(torch.tensor(one.stranger.to_numpy()).reshape(4, 2), wanted)
    assert blocks_of(table, MEAN_FEATURES) == [INPUT, 0, 1]
    chosen = table[(table.score == ATTENTION) & (table.block == 1)]
    sizes = chosen.assign(size=chosen.value.abs()).groupby("source")["size"].sum()
    assert sizes.nunique() == 3  # each source is a run of its own


def test_a_model_of_pairs_is_told_so() -> None:
    model = EXAMPLES["dust3r"]()
    study = Strangers()
    study.choose_views(model)
    with pytest.raises(LackingError, match="3 views, and m takes 2 at most"):
        study.check(ModelUnderTest(model, "m"))


def test_the_figure_has_a_panel_a_score() -> None:
    (drawn,) = Strangers().figures(made({(MODEL, ATTENTION, 2): 3.0})).values()
    assert len(drawn.axes) == len(SCORES)
    assert all(axis.get_xlabel() == "block" for axis in drawn.axes)
