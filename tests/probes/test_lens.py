"""Lenses: the model's own head at any site, alone or behind a learned affine map."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random
from prob3r.models.heads import decode_points
from prob3r.probes import Lens, backbone_of, load_probes, save_probes
from prob3r.rooms import Rooms
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from prob3r.training import ProbeTraining, Stage, train_probes
from prob3r.training import probes as training_module
from prob3r.training.probes import record_streams, site_errors
from prob3r.training.stream import Stream

STAGE = Stage("pointmaps", 16, pairs=192, batch=4, lr=5e-3, warmup=16, decay=0.5)
TRAINING = ProbeTraining(STAGE, validation_pairs=8, validate_every=96)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "Stream", partial(Stream, chunk=32))


def test_untrained_it_is_the_head_at_the_last_site(model: DUSt3R, rooms: Pair) -> None:
    lens = Lens.of(model)
    assert lens.kind == "logit"
    assert lens.sites == tuple(site for site in model.sites() if site.startswith("dec"))
    run = trace(model, rooms, ["dec1.1.mlp", "dec2.1.mlp"])
    assert run.output is not None
    for view in (1, 2):
        read = lens.decode(run[f"dec{view}.1.mlp"])
        torch.testing.assert_close(read.points, run.output.points[view - 1], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(
            read.confidence, run.output.confidence[view - 1], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("site", ["dec1.embed", "dec2.0.cross_attn"])
def test_untrained_it_is_the_head_at_any_site(model: DUSt3R, rooms: Pair, site: str) -> None:
    record = trace(model, rooms, site)[site]
    head = model.downstream_head1 if site.startswith("dec1") else model.downstream_head2
    with torch.no_grad():
        points, _ = decode_points(head([model.dec_norm(record.as_subclass(torch.Tensor))], (2, 2)))
    torch.testing.assert_close(Lens.of(model).decode(record).points, points, atol=1e-6, rtol=1e-5)


def test_the_affine_map_is_the_sites_own(model: DUSt3R, rooms: Pair) -> None:
    """A map made by hand at one site: the stream is turned round and moved."""
    lens, site = Lens.of(model), "dec2.0.mlp"
    row = lens.sites.index(site)
    shift = torch.linspace(-1, 1, 24)
    with torch.no_grad():
        lens.weight[row] = torch.eye(24).roll(1, 1) - torch.eye(24)
        lens.bias[row, 0] = shift
    assert lens.kind == "tuned"
    run = trace(model, rooms, [site, "dec2.1.mlp"])
    moved = run[site].as_subclass(torch.Tensor).roll(1, -1) + shift
    with torch.no_grad():
        points, _ = decode_points(model.downstream_head2([model.dec_norm(moved)], (2, 2)))
    torch.testing.assert_close(lens.decode(run[site]).points, points, atol=1e-6, rtol=1e-5)
    other = run["dec2.1.mlp"]
    torch.testing.assert_close(lens.decode(other).points, Lens.of(model).decode(other).points)


def test_training_helps_every_site_and_leaves_the_head_alone(model: DUSt3R, tmp_path: Path) -> None:
    lens, untrained = Lens.of(model), Lens.of(model)
    before = fingerprint(model)
    best = load_probes(train_probes(model, lens, TRAINING, tmp_path))
    assert isinstance(best, Lens)
    assert (best.kind, best.backbone, best.sites) == ("tuned", before, untrained.sites)
    assert fingerprint(model) == before
    for name in ("head_weight", "head_bias", "norm.weight", "norm.bias"):
        assert torch.equal(best.state_dict()[name], untrained.state_dict()[name])
    held_out = Rooms("validation", size=(16, 16), compile=False).batch(range(8))
    streams = record_streams(model, lens, held_out)
    error, was = (site_errors(reader, streams, held_out) for reader in (best, untrained))
    assert (error < 0.95 * was).all()


def test_each_site_ends_where_it_would_have_ended_alone(model: DUSt3R, tmp_path: Path) -> None:
    short = replace(TRAINING, stage=replace(STAGE, pairs=48))
    together = Lens.of(model)
    train_probes(model, together, short, tmp_path / "together")
    for site in ("dec1.embed", "dec2.0.cross_attn"):
        alone, row = Lens([site], 24, 8), together.sites.index(site)
        frozen = {
            k: t for k, t in Lens.of(model).state_dict().items() if k.startswith(("head", "n"))
        }
        alone.load_state_dict(frozen, strict=False)
        train_probes(model, alone, short, tmp_path / site)
        assert alone.weight.abs().max() > 1e-3
        for name in ("weight", "bias"):
            torch.testing.assert_close(
                together.state_dict()[name][row], alone.state_dict()[name][0], atol=1e-5, rtol=0
            )


def test_a_lens_comes_back_as_it_was(model: DUSt3R, rooms: Pair, tmp_path: Path) -> None:
    lens = Lens.of(model, fingerprint(model))
    with torch.no_grad():
        lens.weight.normal_(0, 0.1)
    save_probes(lens, tmp_path / "lens.safetensors")
    loaded = load_probes(tmp_path / "lens.safetensors")
    assert isinstance(loaded, Lens)
    record = trace(model, rooms, "dec2.0.mlp")["dec2.0.mlp"]
    assert torch.equal(loaded.decode(record).points, lens.decode(record).points)
    assert backbone_of(loaded, model) is model
    with pytest.raises(Prob3rError, match="trained on the model"):
        backbone_of(loaded, random(model, seed=9))


def test_a_head_that_mixes_patches_has_no_lens() -> None:
    config = DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 4, 2, head="dpt")
    with pytest.raises(Prob3rError, match="dpt head, which mixes patches"):
        Lens.of(random(config))
