from pathlib import Path

import numpy as np
import pytest

from prob3r.errors import Prob3rError
from prob3r.viewer import colours
from prob3r.viewer.ablations import BLOCK, HEAD, SINKS, SUBLAYER, Ablation
from prob3r.viewer.attention import MOST_PINS, Pin, heat, rays
from prob3r.viewer.session import Session
from prob3r.viewer.sources import Folder

BOOKS = Path(__file__).parents[2] / "src/prob3r/scenes/pairs/books"
HEAD_ABLATION = Ablation(HEAD, "zero", 1, head=1)


def test_a_cut_stands_beside_what_was_before_and_can_be_undone(session: Session) -> None:
    clean = session.run
    session.ablate(HEAD_ABLATION)
    assert [pane.title for pane in session.panes] == ["before", "after ablation"]
    assert session.panes[session.present].run is session.run
    assert session.panes[0].run is clean
    values = {title: values for title, _, values in session.numbers()}
    assert len(values["Rotation of camera 2"]) == 2
    session.ablate(Ablation(SUBLAYER, "skip", 2, sublayer="mlp"))
    session.undo()
    again = session.run
    session.undo()
    assert session.run is clean
    assert session.ablations == []
    session.undo()
    session.ablate(HEAD_ABLATION)
    np.testing.assert_array_equal(again.points[1], session.run.points[1])
    session.restore()
    assert len(session.panes) == 1


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (lambda s: s.ablate(HEAD_ABLATION), "switched off already"),
        (lambda s: s.ablate(Ablation(HEAD, "uniform", 9)), "dec2.9"),
        (lambda s: s.ablate(Ablation(HEAD, "zero", 0, head=7)), "head 7"),
        (lambda s: s.ablate(Ablation(HEAD, "mean", 1, head=1)), "dec2.1.cross_attn"),
        (lambda s: s.compare("/etc/passwd"), "nothing called"),
        (lambda s: s.move(99), "no site 99"),
        (lambda s: s.move(-1), "no site -1"),
        (lambda s: s.pin(3, 0), "no view 3"),
        (lambda s: s.pin(1, 36), "6 rows and 6 columns"),
        (lambda s: s.watch(3, None), "0 to 2"),
        (lambda s: s.watch(0, 2), "heads to 1"),
        (lambda s: s.show(colour="red"), "colour must be one of"),
        (lambda s: s.show(hidden=200), "from 0 to 95"),
    ],
)
def test_a_wish_that_cannot_be_granted_changes_nothing(session: Session, wish, reason) -> None:
    session.ablate(HEAD_ABLATION)
    session.pin(1, 3)
    before = {name: value for name, value in vars(session).items() if name != "timeline"}
    with pytest.raises(Prob3rError, match=reason):
        wish(session)
    assert {name: vars(session)[name] for name in before} == before


def test_a_comparison_gets_the_same_cuts(session: Session) -> None:
    session.compare("other probes")
    other = session.panes[1]
    assert other.title == "other probes"
    np.testing.assert_allclose(other.run.points[1][-1], session.run.points[1][-1], atol=1e-5)
    assert not np.allclose(other.run.points[1][0], session.run.points[1][0])
    session.ablate(HEAD_ABLATION)
    assert [pane.title for pane in session.panes] == ["after ablation", "other probes"]
    final = session.panes[1].run.points[1][-1]
    np.testing.assert_allclose(final, session.run.points[1][-1], atol=1e-5)
    assert session.present == 0
    session.compare(None)
    assert session.present == 1


def test_pins_are_bounded_and_the_latest_is_last(session: Session) -> None:
    for patch in range(MOST_PINS + 2):
        session.pin(2, patch)
    session.pin(2, 4)
    assert len(session.pins) == MOST_PINS
    assert session.pins[-1] == Pin(2, 4)
    assert session.pins[0] == Pin(2, 2)
    assert session.pins[-1].words(6) == "view 2, row 0, column 4"
    session.unpin()
    assert session.pins == []


def test_attention_is_the_models_and_follows_the_cuts(session: Session) -> None:
    pin = Pin(2, 7)
    probs = session.attention(pin).patches[1]
    assert probs.shape == (3, 3, 36)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-4)
    np.testing.assert_allclose(probs[:, -1], probs[:, :2].mean(1), atol=1e-5)
    session.watch(1, 0)
    np.testing.assert_array_equal(session.watched(pin)[1], probs[1, 0])
    session.ablate(Ablation(HEAD, "uniform", 1, head=0))
    np.testing.assert_allclose(session.watched(pin)[1], 1 / 36, atol=1e-5)


def test_rays_and_heat_rank_the_patches() -> None:
    row = np.array([0.1, 0.0, 0.64, 0.26], np.float32)
    found = rays({1: row[:2], 3: row[2:]}, 3)
    assert found.views.tolist() == [3, 3, 1]
    assert found.keys.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.weights, [1, 0.26 / 0.64, 0.1 / 0.64], rtol=1e-6)
    np.testing.assert_allclose(heat(row)[[2, 1]], [1, 0])


def test_another_pair_starts_over(session: Session) -> None:
    session.ablate(HEAD_ABLATION)
    session.pin(1, 2)
    session.compare("other probes")
    session.open(session.source)
    assert (session.ablations, session.pins, session.against) == ([], [], None)
    assert len(session.panes) == 1


def test_the_truth_is_offered_where_it_is_known(session: Session) -> None:
    session.show(colour=colours.ERROR, ghost="the truth")
    assert session.reference == "the truth"
    books = Folder(BOOKS)
    session.open(books)
    assert (session.display.colour, session.display.ghost) == (colours.PHOTOGRAPH, "nothing")
    assert session.reference == "the final state"
    with pytest.raises(Prob3rError, match="truth of this scene is not known"):
        session.show(ghost="the truth")
    assert str(BOOKS) in session.python


def test_cuts_of_every_kind_can_be_together(session: Session) -> None:
    for ablation in (
        HEAD_ABLATION,
        Ablation(BLOCK, "skip", 2),
        Ablation(SUBLAYER, "skip", 0, view=1, sublayer="mlp"),
    ):
        session.ablate(ablation)
    assert len(session.edits) == 3
    with pytest.raises(Prob3rError):
        session.ablate(Ablation(SINKS, "mask", 99))
