"""Banks of every target: fitted in closed form, kept as files, and read off records."""

import json
from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.io.files import to_json
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random, read_tensors, write_tensors
from prob3r.probes import Asked, RidgeBank, load_probes, provide, save_probes
from prob3r.probes import settings as settings_module
from prob3r.probes.cache import find, kept
from prob3r.probes.equations import NormalEquations
from prob3r.probes.fit import fit_banks
from prob3r.probes.refine import held_error, refine
from prob3r.probes.scenes import ROOMS, fit_scenes
from prob3r.probes.settings import FitSettings
from prob3r.probes.targets import TARGETS, TRUTH, Epipolar, Goals
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace
from tests.models.examples import EXAMPLES

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 16, 2, 2)
SHAPES = {
    "pointmap": (2, 32, 32, 3),
    "depth": (2, 32, 32, 1),
    "normal": (2, 16, 3),
    "covisibility": (2, 16, 1),
    "match": (2, 16, 2),
    "instance": (2, 16, 3),
    "pose": (2, 3, 4),
    "epipolar": (2, 3, 3),
}


@pytest.fixture(scope="module")
def backbone() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def banks(backbone: DUSt3R) -> dict[str, RidgeBank]:
    """Of the trunk, by target."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_module, "LEAST_SHARE", 1.0)
        chosen = fit_scenes(ROOMS, backbone, 40, held_out=12)
        return {
            name: fit_banks(backbone, chosen, FitSettings((TRUTH,), target=target))[0]
            for name, target in TARGETS.items()
        }


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_fitted_kept_and_read(
    name: str, backbone: DUSt3R, banks: dict[str, RidgeBank], tmp_path: Path
) -> None:
    bank, target = banks[name], TARGETS[name]
    views = {int(site[3]) for site in bank.sites}
    assert views == ({2} if target.first_view == 2 else {1, 2})
    assert bank.fit is not None
    assert (bank.fit.target, bank.fit.whose) == (name, TRUTH)
    assert all(error >= 0 for error in bank.fit.errors)
    save_probes(bank, tmp_path / "bank.safetensors")
    loaded = load_probes(tmp_path / "bank.safetensors")
    assert loaded.target is target
    assert loaded.header() == bank.header()
    run = trace(backbone, Rooms("test", (32, 32), compile=False).batch([0, 1]), ["dec2.*"])
    found = loaded.tell(run["dec2.1.mlp"])
    assert found.shape == SHAPES[name]
    assert torch.equal(found, bank.tell(run["dec2.1.mlp"]))
    if name == "pointmap":
        assert torch.equal(found, bank.decode(run["dec2.1.mlp"]).points)
    else:
        with pytest.raises(Prob3rError, match=f"read the target '{name}', but a pointmap is"):
            bank.decode(run["dec2.1.mlp"])


def test_a_target_of_pairs_is_a_regression_on_standardised_means(
    backbone: DUSt3R, banks: dict[str, RidgeBank]
) -> None:
    """In double precision, with the ridge that was chosen."""
    bank, site = banks["pose"], "dec2.0.cross_attn"
    rooms = fit_scenes(ROOMS, backbone, 40).scenes.batch(range(40))
    x = trace(backbone, rooms, site)[site].patches.float().mean(1).double()
    goals = TARGETS["pose"].truth(rooms, 2, 8)
    y = goals.raw.double()
    spread = x.std(0)
    z = (x - x.mean(0)) / spread
    assert bank.fit is not None
    gram = z.T @ z
    gram += bank.fit.ridges[bank.sites.index(site)] * gram.diagonal().mean() * torch.eye(16)
    expected = z @ torch.linalg.solve(gram, z.T @ (y - y.mean(0))) + y.mean(0)
    row = bank.sites.index(site)
    with torch.no_grad():
        found = bank(x[None].float(), slice(row, row + 1))[0, :, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)


def test_a_planted_target_is_found_and_noise_is_not() -> None:
    """An epipolar matrix that the inputs hold is read; refining makes no map worse."""
    rooms = Rooms("train", (32, 32), compile=False).batch(range(60))
    target = Epipolar()
    goals = target.truth(rooms, 2, 8)
    goals = goals.rows(goals.known)
    first, rest = (
        goals.rows(torch.arange(len(goals.raw)) < 40),
        goals.rows(torch.arange(len(goals.raw)) >= 40),
    )
    told, noise = (
        torch.cat((t, torch.randn(len(goals.raw), 3)), 1)
        for t in (goals.raw + 0.02 * torch.randn_like(goals.raw), torch.randn_like(goals.raw))
    )
    errors = []
    for inputs in (told, noise):
        equations = NormalEquations(12, 9, dtype=torch.float64)
        equations.add(inputs[:40], first.raw)
        solutions = equations.solve(standardised=True)
        start = held_error(target, solutions.predict(solutions.rotate(inputs[40:]), 0.01), rest)
        found = refine(target, solutions, 0.01, (inputs[:40], first), (inputs[40:], rest))
        assert found.error <= start * 1.001
        again = held_error(target, inputs[40:] @ found.weight + found.bias, rest)
        assert again == pytest.approx(found.error, rel=1e-2)
        errors.append(found.error)
    assert errors[0] < 0.5 * errors[1]


def test_inputs_that_do_not_vary_leave_the_mean() -> None:
    rooms = Rooms("train", (32, 32), compile=False).batch(range(30))
    goals = Epipolar().truth(rooms, 2, 8)
    inputs = torch.zeros(30, 3)
    equations = NormalEquations(3, 9, dtype=torch.float64)
    equations.add(inputs, goals.raw)
    found = refine(Epipolar(), equations.solve(True), 0.1, (inputs, goals), (inputs, goals))
    assert found.weight.eq(0).all()
    assert found.bias.isfinite().all()
    assert 0 < found.error < 20


def test_standardised_inputs_that_do_not_vary_are_left_alone() -> None:
    inputs = torch.randn(50, 4) * torch.tensor([1.0, 100, 1e-6, 0]) + 3
    outputs = inputs[:, :2] @ torch.tensor([[1.0], [0.01]])
    equations = NormalEquations(4, 1, dtype=torch.float64)
    equations.add(inputs, outputs)
    weight, bias = equations.solve(standardised=True).weight(1e-6)
    assert weight.isfinite().all()
    torch.testing.assert_close(weight[:2, 0], torch.tensor([1.0, 0.01]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(inputs @ weight + bias, outputs, atol=1e-3, rtol=1e-3)


def test_files_of_earlier_versions_load(banks: dict[str, RidgeBank], tmp_path: Path) -> None:
    """They knew one target, and called whose it was the target."""
    save_probes(banks["pointmap"], path := tmp_path / "old.safetensors")
    tensors, header = read_tensors(path)
    assert header is not None
    bank = json.loads(json.dumps(to_json(header["bank"])))
    del bank["target"], bank["fit"]["whose"]
    bank["fit"]["target"] = "own"
    write_tensors(path, tensors, {"bank": bank})
    loaded = load_probes(path)
    assert isinstance(loaded, RidgeBank)
    assert loaded.fit is not None
    assert (loaded.fit.whose, loaded.fit.target, loaded.target.name) == (
        "own",
        "pointmap",
        "pointmap",
    )
    assert "fitted to the model's own final output on 40 scenes" in loaded.origin
    bank["target"] = "colour"
    write_tensors(path, tensors, {"bank": bank})
    with pytest.raises(Prob3rError, match="does not fit its own header: there is no target"):
        load_probes(path)


def test_the_cache_keeps_targets_apart(
    backbone: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(settings_module, "HELD_PAIRS", 8)
    few = Asked(scenes=30, target="match")
    match = provide(backbone, ["ridge", "random", "encoder"], few)
    assert {bank.target.name for bank in match.values()} == {"match"}
    assert match["ridge"].fit is not None
    assert "fitted to the truth (match) on 30 scenes" in match["ridge"].fit.words
    pose = provide(backbone, ["ridge"], Asked(scenes=30, target="pose"))["ridge"]
    assert find(fingerprint(backbone), "ridge") is None  # of pointmaps there is none
    found = find(fingerprint(backbone), "ridge", target="pose")
    assert found is not None
    assert found.load().header() == pose.header()
    assert {each.fit.target for each in kept()} == {"match", "pose"}
    for asked, kind, said in (
        (Asked("own", target="depth"), "ridge", "depth are fitted to the truth alone"),
        (
            Asked(target="pose"),
            "features",
            "pose is decoded from one mean for each view, which only",
        ),
        (Asked(target="colour"), "ridge", "no target 'colour'"),
    ):
        with pytest.raises(Prob3rError, match=said):
            provide(backbone, [kind], asked)


def test_a_special_token_is_read_instead_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(settings_module, "HELD_PAIRS", 6)
    model, asked = EXAMPLES["vggt"](), Asked(scenes=20, target="pose", token="camera")
    bank = provide(model, ["ridge"], asked)["ridge"]
    assert bank.origin.startswith("fitted to the truth (pose, read off the token 'camera') on 20")
    site = bank.sites[-1]
    record = trace(model, fit_scenes(ROOMS, model, 3).scenes.batch(range(3)), site)[site]
    row = bank.sites.index(site)
    raw = record.token("camera") @ bank.weight[row] + bank.bias[row]
    torch.testing.assert_close(bank.raw(record)[:, 0, 0], raw.detach(), atol=1e-4, rtol=1e-4)
    assert provide(model, ["ridge"], asked)["ridge"].header() == bank.header()
    assert find(fingerprint(model), "ridge", target="pose") is None
    for given, said in (
        (Asked(scenes=4, target="pose", token="sun"), "There is no token 'sun' in this model's"),
        (
            Asked(target="depth", token="camera"),
            "depth is decoded from patches, but a token was given",
        ),
    ):
        with pytest.raises(Prob3rError, match=said):
            provide(model, ["ridge"], given)


def test_too_few_is_one_sentence(backbone: DUSt3R) -> None:
    chosen = fit_scenes(ROOMS, backbone, 1)
    with pytest.raises(
        Prob3rError, match=r"The match of only \d+ patches is known, which is too few"
    ):
        fit_banks(backbone, chosen, FitSettings((TRUTH,), target=TARGETS["match"]))


def test_goals_of_several_batches_are_one() -> None:
    parts = [Goals.of_truth(torch.ones(n, 2), torch.ones(n).bool()) for n in (2, 3)]
    joined = Goals.join(parts)
    assert joined.raw.shape == (5, 2)
    assert joined.beside is None
