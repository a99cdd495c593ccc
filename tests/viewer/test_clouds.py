from dataclasses import replace

import numpy as np
import pytest

from prob3r.errors import Prob3rError
from prob3r.measures.influence import influence
from prob3r.viewer import colours
from prob3r.viewer.ablations import BLOCK, Ablation
from prob3r.viewer.clouds import Box, Drawing, cameras, pick
from prob3r.viewer.display import Display
from prob3r.viewer.session import Pane, Session


def drawing_of(session: Session, **display) -> Drawing:
    return Drawing.of(session.panes[session.present], Display(**display))


def test_the_least_sure_points_are_hidden(session: Session) -> None:
    drawing = drawing_of(session, hidden=40)
    both = np.concatenate([c.ravel() for c in session.run.confidence])
    kept = sum(int(m.sum()) for m in drawing.masks)
    assert kept / both.size == pytest.approx(0.6, abs=0.01)
    assert [len(p) for p in drawing.points(2.5)] == [int(m.sum()) for m in drawing.masks]
    assert drawing_of(session, views=(2,)).masks[0].sum() == 0


def test_one_view_can_stay_in_its_final_state(session: Session) -> None:
    first, second = drawing_of(session, moving=2).maps(0.0)
    np.testing.assert_array_equal(first, session.run.points[0][-1])
    np.testing.assert_array_equal(second, session.run.points[1][0])
    drawing = drawing_of(session, moving=1)
    np.testing.assert_array_equal(drawing.maps(0.0)[1], session.run.points[1][-1])
    np.testing.assert_array_equal(drawing.poses(0.0)[1], session.run.poses[-1, 1])


def test_every_colour_paints_every_point(session: Session) -> None:
    session.ablate(Ablation(BLOCK, "skip", 1))
    for colour in (colours.PHOTOGRAPH, colours.VIEW, colours.CONFIDENCE):
        drawing = drawing_of(session, colour=colour)
        assert not drawing.repaints
        assert [p.shape for p in drawing.paint(1.0)] == [p.shape for p in drawing.points(1.0)]
    np.testing.assert_array_equal(
        drawing_of(session, hidden=0).paint(0.0)[1], session.experiment.images[1].reshape(-1, 3)
    )


def test_displacement_is_from_before_a_cut_or_from_the_final_state(session: Session) -> None:
    still = drawing_of(session, colour=colours.DISPLACEMENT)
    end = float(len(session.run.steps) - 1)
    assert (still.paint(end)[1] == colours.HEAT[0]).all()
    assert not (still.paint(0.0)[1] == colours.HEAT[0]).all()
    session.ablate(Ablation(BLOCK, "skip", 1))
    ablation = drawing_of(session, colour=colours.DISPLACEMENT)
    assert (ablation.paint(0.0)[1] == colours.HEAT[0]).all()
    assert not (ablation.paint(end)[1] == colours.HEAT[0]).all()
    assert ablation.scale is not None
    assert "before" in ablation.scale.words


@pytest.mark.parametrize("colour", colours.DECIDES)
def test_points_are_painted_by_what_their_patch_decides(session: Session, colour: str) -> None:
    session.show(colour=colour)
    drawing = drawing_of(session, colour=colour, hidden=0)
    of = colours.DECIDES[colour]
    found = influence(session.probed.model, session.experiment.views, 2, of)
    most = max(float(effects.abs().max()) for effects in found.maps)
    assert drawing.scale is not None
    assert drawing.scale.high == pytest.approx(most)
    assert drawing.scale.low == pytest.approx(-most)
    assert f"the {of} of camera 2" in drawing.scale.words
    painted = drawing.paint(0.0)[1].reshape(48, 48, 3)
    effects = found.maps[1].reshape(6, 6).numpy()
    for row, column in ((0, 0), (2, 5), (5, 1)):
        level = np.array([(effects[row, column] / most + 1) / 2])
        expected = colours.ramp(level, colours.SIGNED)[0]
        patch = painted[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(-1, 3)
        assert (patch == expected).all()
    assert not drawing.repaints


def test_a_camera_that_is_not_found_paints_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise Prob3rError("There is no camera.")

    monkeypatch.setattr(session.experiment, "influence", lost)
    colour = next(iter(colours.DECIDES))
    painted = drawing_of(session, colour=colour).paint(0.0)
    assert (painted[0] == colours.GHOST).all()
    with pytest.raises(Prob3rError, match="There is no camera"):
        session.show(colour=colour)
    assert session.display.colour == colours.PHOTOGRAPH


def test_error_and_ghost_are_of_the_truth(session: Session) -> None:
    drawing = drawing_of(session, colour=colours.ERROR, ghost="the truth", hidden=0)
    truth = session.experiment.truth
    ghost = drawing.ghost()
    assert truth is not None
    assert ghost is not None
    known = [t[np.isfinite(t).all(-1)] for t in truth]
    np.testing.assert_array_equal(ghost, np.concatenate(known))
    pane = drawing.pane
    right = Pane("right", _at(pane, truth), pane.experiment)
    painted = Drawing.of(right, drawing.display).paint(0.0)[0]
    assert (painted == colours.HEAT[0]).all()
    final = drawing_of(session, ghost="the final state", hidden=0).ghost()
    np.testing.assert_array_equal(
        final, np.concatenate([p[-1].reshape(-1, 3) for p in session.run.points])
    )


def _at(pane: Pane, points):
    count = len(pane.run.steps)
    known = [np.nan_to_num(p) for p in points]
    return replace(pane.run, points=tuple(np.repeat(p[None], count, 0) for p in known))


def test_a_ramp_ends_where_it_says_and_marks_what_is_no_number() -> None:
    painted = colours.ramp(np.array([0.0, 1.0, 7.0, np.nan]))
    expected = [colours.HEAT[0], colours.HEAT[-1], colours.HEAT[-1], colours.GHOST]
    assert painted.tolist() == [list(colour) for colour in expected]
    assert colours.css((1, 16, 255)) == "#0110ff"


def test_twenty_views_have_twenty_colours() -> None:
    assert len({colours.of_view(view) for view in range(1, 21)}) == 20
    assert colours.of_view(1) == colours.VIEW_COLOURS[0]


def test_a_click_on_a_point_gives_its_pixel(session: Session) -> None:
    drawing = drawing_of(session, hidden=0, cameras="none")
    maps = drawing.maps(3.0)
    every = np.concatenate([m.reshape(-1, 3) for m in maps])
    outside = every[np.argmax(np.linalg.norm(every, axis=1))]
    view = 0 if (maps[0] == outside).all(-1).any() else 1
    row, column = np.argwhere((maps[view] == outside).all(-1))[0]
    direction = -outside / np.linalg.norm(outside)
    click = pick(drawing, 3.0, outside - 2 * direction, direction, 0.1)
    assert click is not None
    assert (click.view, click.row, click.column) == (view + 1, row, column)
    assert click.distance == pytest.approx(2.0, abs=1e-3)
    away = np.array([0.0, 0.0, 1.0])
    assert pick(drawing, 3.0, every.max(0) + 100, away, 0.1) is None


@pytest.mark.parametrize("view", [1, 2])
def test_a_click_on_a_photograph_gives_its_pixel(session: Session, view: int) -> None:
    drawing, depth = drawing_of(session, hidden=95), 0.2
    camera = cameras(drawing, 4.0)[view]
    half = depth * np.tan(camera.fov / 2)
    row, column = 10, 40
    local = np.array(
        [((column + 0.5) / 24 - 1) * half * camera.aspect, ((row + 0.5) / 24 - 1) * half, depth]
    )
    target = camera.pose[:3, :3] @ local + camera.pose[:3, 3]
    direction = camera.pose[:3, :3] @ np.array([0.0, 0.0, 1.0])
    click = pick(drawing, 4.0, target - 0.05 * direction, direction, depth)
    assert click is not None
    assert (click.view, click.row, click.column) == (view, row, column)


def test_the_box_holds_most_points_and_the_cameras(session: Session) -> None:
    box = Box.of(session.panes)
    assert (box.low <= 0).all()
    assert (box.high >= 0).all()
    points = session.run.points[0][-1].reshape(-1, 3)
    inside = ((points >= box.low) & (points <= box.high)).all(-1)
    assert inside.mean() > 0.6
    assert box.width > 0
