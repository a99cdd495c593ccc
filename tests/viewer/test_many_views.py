"""The viewer on three to five views, by models of joint attention, with and without probes."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from prob3r import trace
from prob3r.cost.fit import run_memory
from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.measures.camera_path import camera_path
from prob3r.measures.views import disagreeing
from prob3r.models import fingerprint, random
from prob3r.models.protocol import trunk
from prob3r.probes import at_blocks
from prob3r.reliability.prediction import calibration_bins, fit_logistic
from prob3r.reliability.strangers import StrangerCalibration, belongings
from prob3r.report.strangers import likeliest
from prob3r.runs.edits import Knockout, view
from prob3r.scenes import Views
from prob3r.scenes.views import views_of
from prob3r.viewer import relations, tables
from prob3r.viewer.ablations import (
    ALL_BLOCKS,
    BETWEEN,
    EVERY,
    HEAD,
    SINKS,
    TOKEN,
    Ablation,
    kinds_of,
    python,
    sublayers_of,
    tokens_of,
)
from prob3r.viewer.attention import Pin
from prob3r.viewer.clouds import Drawing, cameras, path_lines
from prob3r.viewer.display import OF_HEAD, Display
from prob3r.viewer.experiment import Experiment, ProbedModel
from prob3r.viewer.pictures import elsewhere, heads, photographs, tokens
from prob3r.viewer.session import Session
from tests.models.joint import joint_model, scene
from tests.viewer.conftest import CONFIG, Given, joint_probed, probed_of

BLIND = Ablation(BETWEEN, "mask", ALL_BLOCKS, view=2, seen=1, sublayer="global_attn")


@pytest.fixture(scope="module")
def joint() -> ProbedModel:
    return joint_probed()


@pytest.fixture(scope="module")
def experiment5(joint: ProbedModel, five: Views) -> Experiment:
    return Experiment(joint, five)


@pytest.fixture
def session5(joint: ProbedModel, five: Views, experiment5: Experiment) -> Session:
    return Session(joint, Given(five), None, experiment5)


def test_every_view_moves_along_the_sites_and_has_curves(experiment5: Experiment) -> None:
    run = experiment5.clean
    assert len(run.steps) == 1 + 4 * 4 + 1
    assert [points.shape for points in run.points] == [(18, 32, 32, 3)] * 5
    assert set(run.curves) == {2, 3, 4, 5}
    assert run.poses.shape == (18, 5, 4, 4)
    np.testing.assert_array_equal(run.poses[:, 0], np.tile(np.eye(4), (18, 1, 1)))


def test_cameras_are_drawn_though_pointmaps_state_no_camera(experiment5: Experiment) -> None:
    assert all(0.2 * 32 < length < 10 * 32 for focal in experiment5.focal for length in focal)


def test_curves_and_poses_are_those_of_the_reference(experiment5: Experiment) -> None:
    reference, run = experiment5.reference, experiment5.clean
    output = trace(experiment5.probed.model, experiment5.views).output
    assert output is not None
    points = reference.normalise(output.points)
    errors = reference.errors(points)
    for number in range(2, 6):
        # The viewer measures on every pixel here, since there are few.
        got = run.curves[number]["shape_error"][-1]
        torch.testing.assert_close(
            torch.tensor(got), errors[number - 1].shape_error[0], atol=2e-3, rtol=1e-3
        )
        fit = reference.fit(points[number - 1], number)
        np.testing.assert_allclose(run.poses[-1, number - 1, :3, 3], fit.translation[0], atol=5e-3)


def test_the_camera_head_is_read_after_every_block(experiment5: Experiment) -> None:
    run, model = experiment5.clean, experiment5.probed.model
    assert run.head_poses is not None
    path = camera_path(model, experiment5.views).cam_to_world[:, 0]
    for step, poses in zip(run.steps, run.head_poses, strict=True):
        block = 3 if step.block is None and step.sublayer == "output" else step.block or 0
        done = block if step.sublayer in ("global_mlp", "output") else max(block - 1, 0)
        np.testing.assert_allclose(poses[:, :3, :3], path[done, :, :3, :3], atol=1e-5)


def test_without_probes_the_models_own_heads_are_shown_and_said(five: Views) -> None:
    alone = Experiment(joint_probed(bank=False), five)
    assert [(step.block, step.sublayer) for step in alone.steps] == [
        *((block, "global_mlp") for block in range(3)),
        (None, "output"),
    ]
    assert "no probes" in alone.reading
    for place, (_, said) in enumerate(at_blocks(alone.probed.model, five)):
        expected = alone.reference.normalise(said.points)[3][0]
        np.testing.assert_allclose(alone.clean.points[3][place], expected, atol=1e-4)
    edits = BLIND.edits(alone.probed.model, five)
    output = trace(alone.probed.model, five, edits=edits).output
    assert output is not None
    expected = alone.reference.normalise(output.points)[1][0]
    np.testing.assert_allclose(alone.run(edits).points[1][-1], expected, atol=1e-4)


def test_a_model_that_nothing_reads_early_shows_its_output(five: Views) -> None:
    model, views = joint_model(), scene(3, 1)
    session = Session(ProbedModel("toy", model, None), Given(views))
    assert [step.sublayer for step in session.experiment.steps] == ["output"]
    assert "output is shown" in tables.heading(session)
    session.pin(2, token="camera")
    assert set(session.watched(session.pins[0])) == {1, 3}
    before = session.run.points[1].copy()
    session.ablate(BLIND)
    assert not np.allclose(session.run.points[1], before)
    assert "view 3" in relations.table(session)


def test_a_pin_says_what_it_attends_to_in_every_view(session5: Session, five: Views) -> None:
    model = session5.probed.model
    session5.pin(4, 7)
    session5.watch(2, 1)
    name = "dec4.2.global_attn.probs"
    probs = torch.Tensor(trace(model, five, name)[name])[0, 1, 2 + 7]  # two special tokens first
    by_view = probs.unflatten(-1, (5, 18))
    watched = session5.watched(session5.pins[0])
    assert set(watched) == {1, 2, 3, 5}
    for other, row in watched.items():
        np.testing.assert_allclose(row, by_view[other - 1, 2:], rtol=1e-4)
    attention = session5.attention(session5.pins[0])
    special = float(by_view[:, :2].sum())
    assert float(attention.elsewhere[2, 1]) == pytest.approx(special, abs=1e-4)
    session5.pin(1, token="register0")
    probs = torch.Tensor(trace(model, five, "dec1.2.global_attn.probs")["dec1.2.global_attn.probs"])
    expected = probs[0, 1, 1].unflatten(-1, (5, 18))[2, 2:]
    np.testing.assert_allclose(session5.watched(Pin(1, 0, "register0"))[3], expected, rtol=1e-4)


def test_photographs_of_all_views_show_heat_and_shares(session5: Session) -> None:
    session5.pin(2, 5)
    html = photographs(session5)
    assert html.count("<img") == 5
    shares = [int(share) for share in re.findall(r"view \d · (\d+) %", html)]
    assert len(shares) == 4
    assert "stays in its own view" in elsewhere(session5)
    assert tokens(session5).count("<button") == 10  # two special tokens of five views
    session5.show_heads(5)
    assert "view 5" in heads(session5)
    assert session5.toward == 5
    session5.pin(5, 0)
    assert session5.toward != 5  # a view's own patches are not shown


def test_a_knockout_between_two_views_is_that_of_the_library(session5: Session) -> None:
    session5.ablate(BLIND)
    shares = np.array(session5.relations.attention)
    assert (shares[:, 1, 0] == 0).all()
    assert (shares[:, 0, 1] > 0).all()
    model, views = session5.probed.model, session5.experiment.views
    edit = Knockout("dec2.*.global_attn", queries=view(2), keys=view(1))
    output = trace(model, views, edits=[edit]).output
    assert output is not None
    expected = session5.experiment.reference.normalise(output.points)[1][0]
    np.testing.assert_allclose(session5.run.points[1][-1], expected, atol=1e-4)
    assert session5.ablations[0].words == (
        "attention of view 2 to view 1 in global attention of all blocks (mask)"
    )


@pytest.mark.parametrize(
    "ablation",
    [
        BLIND,
        Ablation(BETWEEN, "zero", 1, view=EVERY, seen=EVERY, sublayer="global_attn"),
        Ablation(TOKEN, "mask", 0, view=EVERY, token="register*", sublayer="self_attn"),
        Ablation(HEAD, "zero", ALL_BLOCKS, view=3, sublayer="global_attn", head=1),
        Ablation(HEAD, "uniform", 1, view=2, sublayer="global_attn"),
    ],
    ids=lambda one: one.words,
)
def test_the_python_of_many_views_does_what_the_viewer_does(
    ablation: Ablation, experiment5: Experiment, five: Views, monkeypatch
) -> None:
    model = experiment5.probed.model
    monkeypatch.setattr("prob3r.load", lambda name: model)
    ours = trace(model, five, edits=ablation.edits(model, five)).output
    source = (
        'from prob3r.rooms import Rooms\nviews = Rooms("test", (32, 32), compile=False, views=5)[1]'
    )
    told: dict = {}
    exec(compile(python([ablation], model, 5, "joint", source), "told", "exec"), told)
    assert ours is not None
    assert torch.equal(told["points"][1], ours.points[1])
    clean = trace(model, five).output
    assert clean is not None
    assert not torch.equal(ours.points[1], clean.points[1])


def test_only_what_a_model_has_is_offered(joint: ProbedModel) -> None:
    own = trunk(joint.model)
    assert BETWEEN in kinds_of(own, 5)
    assert TOKEN in kinds_of(own, 5)
    assert sublayers_of(own, HEAD) == ["global_attn", "self_attn"]
    assert sublayers_of(own, BETWEEN) == ["global_attn"]
    assert tokens_of(own, 5) == ["camera", "register0"]
    pair = trunk(probed_of(0).model)
    assert TOKEN not in kinds_of(pair, 2)
    assert sublayers_of(pair, BETWEEN) == ["cross_attn"]
    encoder = probed_of(0).model.stacks["enc"]
    assert BETWEEN not in kinds_of(encoder, 2)
    assert kinds_of(joint.model.stacks["cam"], 5).count(SINKS) == 0  # its streams have no patches


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (lambda s: s.pin(6, 0), "no view 6; views count from 1 to 5"),
        (lambda s: s.pin(1, token="cls"), "no token 'cls'"),
        (lambda s: s.show(views=(1, 9)), "no view 9"),
        (lambda s: s.show(moving=7), "no view 7"),
        (lambda s: s.ablate(Ablation(BETWEEN, "mask", 0, view=1, seen=1)), "two views that differ"),
        (lambda s: s.ablate(Ablation(HEAD, "zero", 0, stack="nope")), "no stack 'nope'"),
        (lambda s: s.show_heads(9), "no view 9"),
    ],
)
def test_wishes_about_views_and_parts_that_are_not_there_end_in_a_sentence(
    session5: Session, wish, reason: str
) -> None:
    with pytest.raises(Prob3rError, match=reason):
        wish(session5)
    assert session5.ablations == []
    assert session5.pins == []


def test_views_can_be_hidden_and_cameras_follow_the_head(session5: Session) -> None:
    session5.show(views=(1, 4), cameras=OF_HEAD, paths=True)
    drawing = Drawing.of(session5.panes[0], session5.display)
    assert [bool(mask.any()) for mask in drawing.masks] == [True, False, False, True, False]
    assert set(cameras(drawing, 3.0)) == {1, 4}
    assert set(path_lines(drawing)) == {4}
    assert session5.run.head_poses is not None
    np.testing.assert_array_equal(drawing.poses(3.0), session5.run.head_poses[3])
    session5.show(moving=4)
    drawing = Drawing.of(session5.panes[0], session5.display)
    np.testing.assert_array_equal(drawing.poses(0.0)[1], session5.run.head_poses[-1, 1])
    np.testing.assert_array_equal(drawing.poses(0.0)[3], session5.run.head_poses[0, 3])


def test_a_model_without_a_camera_head_offers_none(session: Session) -> None:
    with pytest.raises(Prob3rError, match="no camera head"):
        session.show(cameras=OF_HEAD)


def test_the_table_names_the_view_that_disagrees(session5: Session) -> None:
    assert relations.table(session5).count("<tr") == 6
    assert "Block 2: who attends to whom" in relations.matrix(session5)
    assert relations.blocks(session5).count("<svg") == 4
    object.__setattr__(session5.relations, "fit", [0.9, 0.8, 0.1, 0.9, 0.9])
    html = relations.table(session5)
    assert "View 3 disagrees with the rest" in html
    assert html.count("rgba(214,39,72") == 1


def test_the_table_names_the_likeliest_stranger(session5: Session) -> None:
    raw = relations.table(session5)
    least = likeliest(belongings(session5.relations))
    assert f"View {least.view} gets the least attention from the others" in raw
    assert "not calibrated for this run" in raw
    assert raw.count("rgba(214,39,72") == (disagreeing(session5.relations.fit) is not None)


def test_a_likely_stranger_is_marked_in_the_clean_run_alone(five: Views) -> None:
    probed = joint_probed(bank=False)
    rows = torch.tensor([[-9.0, -9.0, -9.0], [9.0, 9.0, 9.0]]).double()
    sure = fit_logistic(rows.repeat(5, 1), torch.tensor([False, True]).repeat(5))
    calibration = StrangerCalibration(
        "joint", fingerprint(probed.model), "rooms:validation", 5, 4, 5,
        sure._replace(bias=sure.bias + 99), Interval(1.0, 1.0, 1.0),
        calibration_bins(torch.tensor([0.0, 1.0]), torch.tensor([False, True])),
    )  # fmt: skip
    session = Session(replace(probed, strangers=calibration), Given(five))
    html = relations.table(session)
    assert html.count("rgba(214,39,72") == 4  # all but view 1, by so biased a fit
    assert "is of another scene with a probability of 100 %" in html
    session.ablate(BLIND)
    assert "not calibrated for this run" in relations.table(session)
    with pytest.raises(Prob3rError, match="made for the model other"):
        replace(probed, strangers=replace(calibration, backbone="other"))


def test_chips_hide_and_show_views(session5: Session) -> None:
    session5.show(views=(1, 2, 3, 4))
    html = tables.chips(session5, "")
    texts = re.findall(r"t=&#x27;(.*?)&#x27;", html)
    assert texts == ["2, 3, 4", "1, 3, 4", "1, 2, 4", "1, 2, 3", "all"]
    session5.show(views=(2,))
    assert "t=&#x27;none&#x27;" in tables.chips(session5, "")
    assert Display(views=()).shows(1) is False


def test_more_views_than_fit_are_told_in_a_sentence(
    joint: ProbedModel, five: Views, monkeypatch
) -> None:
    with pytest.raises(Prob3rError, match="takes at most 2 views, and there are 5"):
        Experiment(ProbedModel("pair", random(CONFIG), None), five)
    many = views_of([five.view(1)] * 21, ("many",))
    with pytest.raises(Prob3rError, match="shows at most 20 views, and there are 21"):
        Experiment(joint, many)
    needed = run_memory(joint.model, 3, (32, 32), [str(s) for s in trunk(joint.model).sites(3)])
    monkeypatch.setattr("prob3r.cost.fit.free_memory", lambda device: needed)
    with pytest.raises(Prob3rError, match=r"5 views of 32x32 pixels take .*; 3 views fit"):
        Experiment(joint, five)
