from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint, read_tensors
from prob3r.probes import ProbeBank, ProbeConfig, load_probes
from prob3r.probes.files import KINDS
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from prob3r.training import ProbeTraining, Progress, Stage, site_losses, train_probes
from prob3r.training import probes as training_module
from prob3r.training.probes import bank_for, default_training, record_streams, site_errors
from prob3r.training.processes import Processes
from prob3r.training.stream import Stream

SITES = ("dec2.0.cross_attn", "dec1.1.mlp", "dec2.embed")
TRAINING = ProbeTraining(
    Stage("pointmaps", 16, pairs=96, batch=4, lr=2e-3, warmup=16, decay=0.5),
    validation_pairs=4,
    validate_every=32,
)


class Killed(BaseException):
    pass


def bank_of(sites: tuple[str, ...], depth: int = 3) -> ProbeBank:
    return ProbeBank(sites, ProbeConfig(24, 8, depth, width=16))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "Stream", partial(Stream, chunk=32))


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The norm of every probe's gradient before it is clipped, step by step."""
    kept: list[Tensor] = []
    clip = training_module._BankTask.clip

    def watched(task: training_module._BankTask) -> None:
        gradients = [p.grad for p in task.bank.parameters() if p.grad is not None]
        kept.append(torch.cat([g.flatten(1) for g in gradients], 1).norm(dim=1))
        clip(task)

    monkeypatch.setattr(training_module._BankTask, "clip", watched)
    return kept


@pytest.mark.parametrize("depth", [1, 3])
def test_each_probe_ends_where_it_would_have_ended_alone(
    model: DUSt3R,
    tmp_path: Path,
    depth: int,
    norms: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_module, "CLIP", 0.2)
    together = bank_of(SITES, depth)
    train_probes(model, together, TRAINING, tmp_path / "together")
    assert len(norms) == 24
    # Clipping bites, and by a different share for every probe.
    bites = torch.stack(norms) > 0.2
    assert bites.any(0).all()
    assert (torch.stack(norms).std(1) > 0.01).any()

    for row, site in enumerate(SITES):
        single = bank_of((site,), depth)
        start = {name: tensor.clone() for name, tensor in single.state_dict().items()}
        train_probes(model, single, TRAINING, tmp_path / site)
        for name, tensor in single.state_dict().items():
            torch.testing.assert_close(
                together.state_dict()[name][row], tensor[0], atol=1e-5, rtol=0
            )
            assert not torch.allclose(tensor, start[name], atol=1e-3)


def test_gradients_are_clipped_probe_by_probe(model: DUSt3R, rooms: Pair, tmp_path: Path) -> None:
    bank = bank_of(SITES)
    task = training_module._BankTask(model, bank, TRAINING, tmp_path, None, Processes())
    site_losses(bank, record_streams(model, bank, rooms), rooms).sum().backward()
    scale = torch.tensor([100.0, 1e-3, 3.0])
    for parameter in bank.parameters():
        assert parameter.grad is not None
        parameter.grad *= scale[:, None, None]
    before = [p.grad.clone() for p in bank.parameters() if p.grad is not None]
    task.clip()
    for row in range(3):
        norm = torch.cat([g[row].flatten() for g in before]).norm()
        for parameter, gradient in zip(bank.parameters(), before, strict=True):
            assert parameter.grad is not None
            expected = gradient[row] / norm.clamp(min=1)
            torch.testing.assert_close(parameter.grad[row], expected)


@pytest.mark.parametrize("sites", [SITES, ("dec2.0.mlp", "dec2.1.mlp"), ("dec1.embed",)])
def test_losses_are_those_of_a_slow_reference(
    model: DUSt3R, rooms: Pair, sites: tuple[str, ...]
) -> None:
    bank = bank_of(sites)
    streams = record_streams(model, bank, rooms)
    losses, errors = (f(bank, streams, rooms).tolist() for f in (site_losses, site_errors))
    records = trace(model, rooms, sites)
    true, valid = rooms.points, rooms.valid
    unit = [
        torch.cat([true[v][b][valid[v][b]] for v in (0, 1)]).norm(dim=-1).mean() for b in range(6)
    ]
    for row, site in enumerate(sites):
        view = int(site[3]) - 1
        points, confidence = bank.decode(records[site])
        terms, distances = [], []
        for b, y, x in valid[view].nonzero().tolist():
            error = (points[b, y, x] - true[view][b, y, x] / unit[b]).norm()
            c = confidence[b, y, x]
            terms.append(c * error - 0.2 * c.log())
            distances.append(error)
        assert losses[row] == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)
        assert errors[row] == pytest.approx(torch.stack(distances).mean().item(), rel=1e-4)


def test_the_truth_has_no_error(model: DUSt3R, rooms: Pair) -> None:
    """A probe that knows one patch's pixels by heart is measured in the unit of the pair."""
    bank = bank_of(("dec1.embed",), depth=1)
    pair = rooms[0]
    far = pair.with_views(
        view1=replace(pair.view1, depth=pair.view1.image.new_full((1, 16, 16), 4.0))
    )
    single = far.with_views(
        view2=replace(far.view2, valid=torch.zeros(1, 16, 16, dtype=torch.bool))
    )
    valid = torch.zeros(1, 16, 16, dtype=torch.bool)
    valid[0, 8, 8] = True
    single = single.with_views(view1=replace(single.view1, valid=valid))
    direction = single.points[0][0, 8, 8] / single.points[0][0, 8, 8].norm()
    with torch.no_grad():
        bank.weights[0].zero_()
        bank.biases[0][0, 0, :3] = direction * torch.log(torch.tensor(2.0))
    streams = record_streams(model, bank, single)
    assert site_errors(bank, streams, single).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("sites", [SITES, ("dec2.0.mlp", "dec2.1.mlp")])
def test_sites_are_trained_in_any_groups_alike(
    model: DUSt3R, rooms: Pair, sites: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site at a time as on a CPU, and all at once as on a GPU."""
    bank = bank_of(sites)
    streams = record_streams(model, bank, rooms)
    found = []
    for size in (1, len(sites)):
        monkeypatch.setattr(training_module, "_at_once", lambda *_, size=size: size)
        losses = site_losses(bank, streams, rooms)
        gradients = torch.autograd.grad(losses.sum(), list(bank.parameters()))
        found.append((losses, *gradients, site_errors(bank, streams, rooms)))
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(apart, together)


def test_streams_are_the_records_of_the_sites(model: DUSt3R, rooms: Pair) -> None:
    streams = record_streams(model, bank_of(SITES), rooms)
    records = trace(model, rooms, SITES)
    for row, site in enumerate(SITES):
        assert torch.equal(streams[row], records[site].flatten(0, 1))
    assert not streams.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_banks_of_every_kind(model: DUSt3R, kind: str) -> None:
    before = fingerprint(model)
    backbone, bank = bank_for(model, kind)
    assert fingerprint(model) == before
    assert (backbone is model) == (kind != "random")
    if kind == "random":
        assert backbone.config == model.config
        assert fingerprint(backbone) != before
        assert fingerprint(backbone) == fingerprint(bank_for(model, kind)[0])
    assert bank.kind == (kind if kind != "tuned" else "logit")  # until it has learned something
    if kind == "encoder":
        assert bank.sites == ("enc1.0.mlp", "enc2.0.mlp")
        assert bank.stream == 16
    else:
        assert bank.sites == tuple(s for s in model.sites() if s.startswith("dec"))
        assert len(bank.sites) == 2 * (1 + 3 * 2)
        assert bank.stream == 24
    if isinstance(bank, ProbeBank):
        assert len(bank.weights) == (1 if kind == "linear" else 5)


def test_an_unknown_kind_is_refused(model: DUSt3R) -> None:
    with pytest.raises(Prob3rError, match="kind is 'cubic'; it must be one of"):
        bank_for(model, "cubic")


def test_the_default_training_is_at_the_models_size(model: DUSt3R) -> None:
    stage = default_training(model, 640).stage
    assert (stage.size, stage.steps * stage.batch) == (16, 640)


@pytest.mark.parametrize("kind", ["mlp", "encoder"])
def test_probes_learn_and_the_backbone_does_not(model: DUSt3R, tmp_path: Path, kind: str) -> None:
    _, bank = bank_for(model, kind)
    before, words = fingerprint(model), list[Progress]()
    long = replace(TRAINING, stage=replace(TRAINING.stage, pairs=160, lr=5e-3))
    path = train_probes(model, bank, long, tmp_path, report=words.append)
    assert fingerprint(model) == before
    untrained = ProbeBank(bank.sites, bank.config)
    held_out = training_module.Rooms("validation", size=(16, 16)).batch(range(4))
    streams = record_streams(model, bank, held_out)
    best = load_probes(path)
    assert best.backbone == before
    _, header = read_tensors(path)
    assert header is not None
    assert header["training"] == {
        "sample": "rooms:train@16",
        "pairs": 160,
        "batch": long.stage.batch,
        "held_out": 4,
        "seed": long.seed,
    }
    after = site_errors(best, streams, held_out)
    assert (after < 0.8 * site_errors(untrained, streams, held_out)).all()
    metrics = words[-1].metrics
    assert set(metrics) == {"error", *bank.sites}
    assert metrics["error"] == pytest.approx(sum(metrics[s] for s in bank.sites) / len(bank.sites))
    assert after.mean().item() <= metrics["error"] + 1e-6


def test_a_stopped_run_ends_where_an_unbroken_one_ends(
    model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 32)
    unbroken, stopped = bank_of(SITES), bank_of(SITES)
    train_probes(model, unbroken, TRAINING, tmp_path / "unbroken")

    def killed(progress: Progress) -> None:
        raise Killed

    train_probes(model, bank_of(SITES), TRAINING, tmp_path / "stopped", seconds=0.0)
    with pytest.raises(Killed):
        train_probes(model, bank_of(SITES), TRAINING, tmp_path / "stopped", report=killed)
    path = train_probes(model, stopped, TRAINING, tmp_path / "stopped")
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(stopped.state_dict()[name], tensor)
    best = load_probes(path).state_dict()
    other = load_probes(tmp_path / "unbroken" / "probes.safetensors").state_dict()
    assert all(torch.equal(best[name], other[name]) for name in best)


def test_the_state_of_another_bank_is_refused(model: DUSt3R, tmp_path: Path) -> None:
    short = replace(TRAINING, stage=replace(TRAINING.stage, pairs=4))
    train_probes(model, bank_of(SITES), short, tmp_path)
    for bank, seed in ((bank_of(SITES[:2]), 0), (bank_of(SITES, depth=1), 0), (bank_of(SITES), 1)):
        with pytest.raises(Prob3rError, match=r"state\.pt belongs to "):
            train_probes(model, bank, replace(short, seed=seed), tmp_path)
    other = bank_for(model, "random")[0]
    with pytest.raises(Prob3rError, match=r"state\.pt belongs to "):
        train_probes(other, bank_of(SITES), short, tmp_path)
