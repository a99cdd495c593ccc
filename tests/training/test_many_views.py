"""Losses of models of many views, by hand; and a tiny VGGT that is trained, stopped and resumed."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import invert_rigid
from prob3r.models import VGGT, Cameras, Prediction, VGGTConfig, load, metadata, random
from prob3r.models.sites import Tap
from prob3r.models.stacks import TokenLayout
from prob3r.rooms import Rooms
from prob3r.scenes import Views
from prob3r.training import Progress, Recipe, Stage, train_backbone
from prob3r.training.attention import DirectAttention, OthersFirst
from prob3r.training.backbone import _BackboneTask
from prob3r.training.many_views import ManyViews, Truth, camera_loss, dense_loss
from prob3r.training.processes import Processes
from prob3r.training.stream import ViewsStream
from prob3r.training.validation import Validation
from prob3r.training.views_validation import ViewsValidation
from tests.training.conftest import CONFIG as TWO_VIEWS

CONFIG = VGGTConfig((16, 16), 8, 16, 1, 2, 1, 0, 1, 0, (0, 0, 0, 0), 8, (4, 4, 4, 4), 1, 2, 2)
STAGE = Stage("many-views", 16, pairs=16, batch=4, lr=2e-3, warmup=0, views=(2, 4))
RECIPE = Recipe(
    "small", 0, CONFIG, (STAGE,), architecture="vggt", validate_every=8, validation_pairs=4
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 8)
    monkeypatch.setattr("prob3r.training.backbone.ViewsStream", partial(ViewsStream, chunk=8))


def rooms(count: int = 3, views: int = 3) -> Views:
    return Rooms("test", (16, 16), compile=False, views=views).batch(range(count))


def test_dense_loss_by_hand() -> None:
    """A row of three pixels, the last one not valid: two errors and one gradient count."""
    predicted = torch.tensor([1.0, 3.0, 7.0]).reshape(1, 1, 3, 1)
    confidence = torch.tensor([[[2.0, 4.0, 9.0]]])
    true = torch.tensor([1.5, 2.0, 0.0]).reshape(1, 1, 3, 1)
    valid = torch.tensor([[[True, True, False]]])
    points = (2 * 0.5 - 0.2 * math.log(2) + 4 * 1.0 - 0.2 * math.log(4)) / 2
    across = 2 * abs((3 - 1) - (2 - 1.5))
    loss = dense_loss(predicted, confidence, true, valid)
    torch.testing.assert_close(loss, torch.tensor(points + across))
    # Turned by 90 degrees it is the same.
    turned = dense_loss(
        predicted.mT.reshape(1, 3, 1, 1), confidence.mT, true.reshape(1, 3, 1, 1), valid.mT
    )
    torch.testing.assert_close(turned, loss)


def test_dense_loss_of_nothing_valid_is_zero_and_has_a_gradient() -> None:
    predicted = torch.randn(2, 4, 4, 3, requires_grad=True)
    loss = dense_loss(
        predicted, torch.ones(2, 4, 4), torch.randn(2, 4, 4, 3), torch.zeros(2, 4, 4).bool()
    )
    loss.backward()
    assert loss == 0
    assert predicted.grad is not None
    assert predicted.grad.eq(0).all()


def test_camera_loss_by_hand() -> None:
    """Later iterations weigh more; small errors are squared; angles weigh half."""
    true = torch.zeros(1, 1, 9)
    early, late = torch.zeros(2, 1, 1, 9).unbind()
    early[..., 0] = 1.0  # translation: (1 - 0.025) / 3
    late[..., 3] = 0.01  # quaternion: 0.5 * 0.01**2 / 0.05 / 4
    late[..., 8] = 2.0  # an angle: 0.5 * (2 - 0.025) / 2
    wanted = (0.6 * 0.975 / 3 + 0.5 * 1e-4 / 0.05 / 4 + 0.5 * 1.975 / 2) / 1.6
    torch.testing.assert_close(camera_loss([early, late], true), torch.tensor(wanted))


def test_the_truth_is_in_the_unit_of_the_mean_distance_and_in_camera_1s_frame() -> None:
    scenes = rooms()
    truth = Truth(scenes)
    distances = truth.points.norm(dim=-1).unflatten(0, (3, 3))  # views, scenes
    valid = truth.valid.unflatten(0, (3, 3))
    for scene in range(3):
        unit = distances[:, scene][valid[:, scene]].mean()
        torch.testing.assert_close(unit, torch.tensor(1.0))
    # Camera 1 is at the origin and looks along z; depth is what the points have along it.
    identity = torch.tensor([0.0, 0, 0, 0, 0, 0, 1]).expand(3, 7)
    torch.testing.assert_close(truth.cameras[:, 0, :7], identity, atol=1e-5, rtol=0)
    first = truth.points[:3, ..., 2]
    torch.testing.assert_close(first * truth.valid[:3], truth.depth[:3] * truth.valid[:3])
    # A world point at a camera's centre is at the origin of the camera.
    centres = scenes.cam_to_world[:, 2, :3, 3]
    scale = truth.depth[0].max() / scenes.views[0].depth[0].max()  # type: ignore[index]
    moved = invert_rigid(scenes.cam_to_world[:, 2])[0, :3, :3] @ centres[0]
    torch.testing.assert_close(truth.cameras[0, 2, :3], -moved * scale, atol=1e-4, rtol=1e-4)


class Knowing(torch.nn.Module):
    """States the truth of the scenes that it was given, and confidences of 1."""

    def __init__(self, scenes: Views):
        super().__init__()
        self.scenes, self.truth = scenes, Truth(scenes)

    def refined(self, *images: Tensor, tap: Tap | None = None) -> tuple[Prediction, list[Tensor]]:
        truth, count = self.truth, len(images)
        sure = tuple(torch.ones_like(depth) for depth in truth.depth.chunk(count))
        return Prediction(truth.points.chunk(count), sure, None, truth.depth.chunk(count), sure), [
            truth.cameras
        ] * 2


def test_the_truth_has_no_loss() -> None:
    scenes = rooms()
    module = Knowing(scenes)
    assert ManyViews.trains(module)
    assert ManyViews(module, STAGE, 0, Tap()).loss(scenes, 0) == 0


def test_a_stopped_run_of_many_views_ends_where_an_unbroken_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.training.backbone.has_bfloat16", lambda device: True)
    recipe = replace(RECIPE, optimizer="muon", bf16=True)
    path = train_backbone(recipe, tmp_path / "unbroken")
    for _ in range(2):
        train_backbone(recipe, tmp_path / "stopped", seconds=0.0)
    train_backbone(recipe, tmp_path / "stopped")
    states = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"]
        for name in ("stopped", "unbroken")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    assert any(
        not torch.equal(weight, random(CONFIG).state_dict()[name])
        for name, weight in states[0].items()
    )
    best = load(path)
    assert isinstance(best, VGGT)
    assert best.config == CONFIG
    assert {"rotation_error", "auc@30"} <= metadata(path)["validation"].keys()


def test_the_loss_falls_on_scenes_that_are_seen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, everyday=0.0),))
    task = _BackboneTask(recipe, Path(), Processes())
    task.begin(0)
    losses = []
    for _ in range(12):
        for optimizer in task.optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = 5e-3
        (loss,) = task.losses(1)
        torch.autograd.backward(loss)
        task.clip()
        for optimizer in task.optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("parts", "processes"), [(2, 1), (1, 2)])
def test_parts_of_a_batch_of_views_add_up_to_it(parts: int, processes: int) -> None:
    """Whether one process takes them one after the other, or several take one each."""

    def losses(parts: int, processes: Processes) -> list[float]:
        recipe = replace(RECIPE, stages=(replace(STAGE, parts=parts),))
        task = _BackboneTask(recipe, Path(), processes)
        task.begin(0)
        return [loss.item() for loss in task.losses(0)]

    found = [losses(parts, Processes(rank, processes)) for rank in range(processes)]
    assert [len(each) for each in found] == [parts] * processes
    assert sum(map(sum, found)) == pytest.approx(sum(losses(1, Processes())), rel=0.1)


def test_a_step_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(Prob3rError, match="4 pairs cannot be shared by 3 processes in 1 parts"):
        _BackboneTask(RECIPE, Path(), Processes(0, 3))


def test_an_objective_is_refused_by_an_architecture_that_cannot_be_trained_for_it(
    tmp_path: Path,
) -> None:
    stages = (replace(STAGE, objective="pointmaps", views=(2,)),)
    with pytest.raises(Prob3rError, match=r"pointmaps.*vggt cannot be trained"):
        train_backbone(replace(RECIPE, stages=stages), tmp_path)


def test_attention_written_out_is_that_of_all_views_in_one_product() -> None:
    queries, keys, values = torch.randn(3, 2, 4, 6, 8).unbind()
    parts, names = list(queries.split(3, 2)), ["dec1.0.global_attn.probs"] * 2
    wanted = Tap().attend_views(names, parts, keys, values)
    found = DirectAttention().attend_views(names, parts, keys, values)
    torch.testing.assert_close(found, wanted)


def test_the_penalty_is_taken_from_the_scores_of_patches_of_one_view_alone() -> None:
    """Two views of a camera token, two patches and a token behind: each pair of tokens by hand."""
    queries, keys, values = torch.randn(3, 1, 2, 8, 4).unbind()
    tap = OthersFirst(TokenLayout(("camera",), ("end",)))
    tap.penalty = 3.0
    parts, names = list(queries.split(4, 2)), ["dec1.0.global_attn.probs"] * 2
    scores = queries @ keys.mT / 2
    for view in (0, 4):
        for query in (1, 2):
            for key in (1, 2):
                scores[..., view + query, view + key] -= 3.0
    wanted = (scores.softmax(-1) @ values).split(4, 2)
    found = tap.attend_views(names, parts, keys, values)
    torch.testing.assert_close(found, list(wanted))
    tap.penalty = 0.0
    plain = Tap().attend_views(names, parts, keys, values)
    torch.testing.assert_close(tap.attend_views(names, parts, keys, values), plain)


def test_a_stage_changes_what_learns_in_it_and_nothing_else(tmp_path: Path) -> None:
    heads = replace(STAGE, learns=("*_head.*",), own_penalty=(5.0, 0.0))
    recipe = replace(RECIPE, stages=(heads, replace(STAGE, pairs=4)), optimizer="muon")
    start = _BackboneTask(recipe, tmp_path, Processes()).model.state_dict()
    start = {name: weight.clone() for name, weight in start.items()}

    def changed(found: dict[str, Tensor]) -> set[str]:
        return {n.split(".")[0] for n, weight in found.items() if not torch.equal(weight, start[n])}

    words = []

    def report(progress: Progress) -> None:
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        words.append((progress.stage, changed(state["model"])))

    train_backbone(recipe, tmp_path, seconds=0.0)
    train_backbone(recipe, tmp_path, report=report)
    every = {"aggregator", "camera_head", "depth_head", "point_head"}
    assert words == [(0, every - {"aggregator"}), (1, every)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"learns": ("*_head.*", "tail.*")},
            r"learns 'tail\.\*', which matches no parameter of the",
        ),
        ({"own_penalty": (1.0, 0.0), "views": (2,)}, "views attend jointly.*dust3r do not"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, **changes),))  # type: ignore[arg-type]
    if "own_penalty" in changes:
        recipe = replace(recipe, architecture="dust3r", model=TWO_VIEWS)
    with pytest.raises(Prob3rError, match=said):
        train_backbone(recipe, tmp_path)


class Posed(VGGT):
    """States the true cameras and points if it is shown the right view 1, else none moved."""

    def __init__(self, batches: list[Views]):
        super().__init__(CONFIG)
        self.batches = batches

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        (scenes,) = [s for s in self.batches if torch.equal(s.images[1], images[1])]
        poses = scenes.cam_to_world
        # A frame of its own, in which camera 1 is not at the origin, and a unit of its own.
        own = poses[:, 1:2] @ poses
        if not torch.equal(images[0], scenes.images[0]):
            own = torch.eye(4).expand_as(poses)
        own = torch.cat(
            (torch.cat((own[..., :3, :3], 7 * own[..., :3, 3:]), -1), own[..., 3:, :]), -2
        )
        points = tuple(2 * p for p in scenes.points)
        return Prediction(points, tuple(torch.ones_like(p[..., 0]) for p in points), Cameras(own))


def test_validation_measures_cameras_relative_to_the_stated_first_one() -> None:
    validation = ViewsValidation(16, 4, "cpu", batch=2, everyday=True, views=3)
    found = validation.measure(Posed([*validation.staged, *validation.everyday]))
    assert found["rotation_error"] < 0.1
    assert found["translation_error"] < 0.1
    assert found["pointmap_error1"] < 1e-5
    assert found["pointmap_error2"] < 1e-5
    assert found["auc@30"] > 0.99
    assert found["everyday_rotation_error"] < 0.1
    assert found["shuffled_rotation_error"] == pytest.approx(found["still_rotation_error"])
    assert found["still_rotation_error"] > 5


def test_a_room_alone_in_its_batch_has_no_shuffled_control() -> None:
    """A batch of two and one of one: only the first has a control."""
    some, alone = (ViewsValidation(16, n, "cpu", batch=2, views=3) for n in (3, 1))
    found = some.measure(Posed(some.staged))
    assert found["rotation_error"] < 0.1
    assert found["shuffled_rotation_error"] > 5
    found = alone.measure(Posed(alone.staged))
    assert found["rotation_error"] < 0.1
    assert math.isnan(found["shuffled_rotation_error"])


@pytest.mark.parametrize("kind", [Validation, ViewsValidation])
def test_a_validation_leaves_no_tensor_that_takes_no_gradient(
    kind: type[Validation | ViewsValidation],
) -> None:
    """Libraries keep tensors that they make; those of the inference mode fail in later runs."""
    model = random(TWO_VIEWS) if kind is Validation else random(CONFIG)
    seen = []

    def look(*_: object) -> None:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    model.register_forward_pre_hook(look)
    kind(16, 2, "cpu").measure(model)
    assert set(seen) == {(False, False)}
