import json
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prob3r import cli
from prob3r.cost.dry_run import DryRun, operations, storage_bytes
from prob3r.cost.jobs import EVERY_SITE, attributing, sweeping, tracing, training
from prob3r.cost.plan import plan
from prob3r.errors import Prob3rError
from prob3r.models import (
    VGGT,
    CroCoConfig,
    DUSt3R,
    DUSt3RConfig,
    MultiViewModel,
    PosedDUSt3R,
    Prediction,
    VGGTConfig,
    info,
    load,
    random,
    save,
)
from prob3r.models.architectures import published_model
from prob3r.models.protocol import Shape
from prob3r.rooms import Rooms
from prob3r.runs.attribution import AnotherRun, Measure, attribute
from prob3r.runs.sweep import sweep_heads
from prob3r.runs.trace import trace
from prob3r.scenes import Pair, Views
from prob3r.training.probes import (
    CLIP,
    bank_for,
    clip_rows,
    optimizer_for,
    record_streams,
    site_losses,
)
from tests.studies.few import fit_poses_at_once

SMALL = DUSt3RConfig((32, 32), 8, 32, 1, 2, 48, 2, 2)
SHALLOW = DUSt3RConfig((32, 32), 8, 32, 1, 2, 48, 1, 2)
DPT = DUSt3RConfig((32, 32), 16, 32, 1, 2, 48, 4, 2, "dpt")
MANY = VGGTConfig((32, 32), 8, 32, 2, 2, 2, 1, 2, 1, (0, 0, 1, 1), 16, (8, 8, 8, 8), 1, 2, 2)
CROCO = CroCoConfig((32, 32), 8, 32, 1, 2, 48, 2, 2)


class Account(TorchDispatchMode):
    """Keeps the bytes of a real run's tensors."""

    def __init__(self, *held_before: Tensor):
        super().__init__()
        self.storages: dict[int, int] = {}
        self.total = self.peak = 0
        for tensor in held_before:
            self.enter(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.enter(leaf)
        return result

    def enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self.storages:
            self.storages[id(storage)] = storage.nbytes()
            weakref.finalize(storage, self.leave, id(storage))
            self.total += storage.nbytes()
            self.peak = max(self.peak, self.total)

    def leave(self, number: int) -> None:
        self.total -= self.storages.pop(number)


@pytest.fixture(autouse=True)
def _poses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned and what is counted are still the same work."""
    fit_poses_at_once(monkeypatch)


def tensors_of(pair: Views) -> list[Tensor]:
    found: list[Tensor] = []
    pair.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def rooms(config: Shape, batch: int) -> Pair:
    return Rooms("test", config.image_size, compile=False).batch(range(batch))


def room_views(config: Shape, batch: int, views: int) -> Views:
    return Rooms("test", config.image_size, compile=False, views=views).batch(range(batch))


def frozen(config: VGGTConfig) -> VGGT:
    """Torch's counter stumbles over views of weights that learn."""
    return random(config).requires_grad_(False)


def stepped(
    model: MultiViewModel, pair: Pair, kind: str
) -> tuple[list[Tensor], Callable[[], None]]:
    """A bank's tensors after a step, and the next step."""
    _, bank = bank_for(model, kind)
    optimizer = optimizer_for(bank)

    def step() -> None:
        optimizer.zero_grad()
        site_losses(bank, record_streams(model, bank, pair), pair).sum().backward()
        clip_rows(bank, CLIP)
        optimizer.step()

    step()
    optimizer.zero_grad()
    state = [t for values in optimizer.state.values() for t in values.values()]
    return [*bank.parameters(), *state], step


@pytest.mark.parametrize(("config", "batch"), [(SMALL, 1), (SMALL, 3), (DPT, 2)])
def test_tracing_takes_what_was_planned(config: DUSt3RConfig, batch: int) -> None:
    model, pair = random(config), rooms(config, batch)
    planned = tracing(config, batch=batch)
    with Account(*model.parameters(), *tensors_of(pair)) as account:
        found, counted = operations(lambda: trace(model, pair, EVERY_SITE))
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == counted
    assert planned.records == storage_bytes(found.values())


@pytest.mark.parametrize(
    ("config", "batch", "kind"), [(SMALL, 1, "mlp"), (SMALL, 3, "linear"), (DPT, 2, "mlp")]
)
def test_training_takes_what_was_planned(config: DUSt3RConfig, batch: int, kind: str) -> None:
    model, pair = random(config), rooms(config, batch)
    planned = training(config, batch=batch, kind=kind)
    kept, step = stepped(model, pair, kind)
    with Account(*model.parameters(), *tensors_of(pair), *kept) as account:
        _, counted = operations(step)
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == counted


def test_a_sweep_takes_what_was_planned() -> None:
    model, pair = random(SHALLOW), rooms(SHALLOW, 2)
    wide, narrow = (sweeping(SHALLOW, batch=2, memory=memory) for memory in (2**30, 1))
    with Account(*model.parameters(), *tensors_of(pair)) as account:
        _, counted = operations(lambda: sweep_heads(model, pair))
    assert wide.total == pytest.approx(account.peak, rel=0.15)
    assert wide.operations == pytest.approx(counted, rel=0.15)
    assert wide.count == narrow.count == SHALLOW.dec_depth * SHALLOW.dec_heads
    assert (wide.at_once, narrow.at_once) == (2, 1)
    assert wide.total > narrow.total
    assert wide.operations == pytest.approx(narrow.operations, rel=1e-3)
    _, once = operations(lambda: trace(model, pair))
    assert wide.naive == wide.count * once


@pytest.mark.parametrize(("batch", "views"), [(2, 2), (1, 4)])
def test_tracing_many_views_takes_what_was_planned(batch: int, views: int) -> None:
    model, scenes = frozen(MANY), room_views(MANY, batch, views)
    planned = tracing(MANY, batch=batch, views=views)
    with Account(*model.parameters(), *tensors_of(scenes)) as account:
        found, counted = operations(lambda: trace(model, scenes, EVERY_SITE))
    assert planned.count == len(found) == len(model.sites(views))
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == counted
    assert planned.records == storage_bytes(found.values())


def test_training_probes_of_a_model_of_many_views_takes_what_was_planned() -> None:
    model, pair = frozen(MANY), rooms(MANY, 2)
    planned = training(MANY, batch=2, kind="linear")
    kept, step = stepped(model, pair, "linear")
    with Account(*model.parameters(), *tensors_of(pair), *kept) as account:
        _, counted = operations(step)
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == counted


@pytest.mark.parametrize("sites", [None, "dec1.*.self_attn"])
def test_a_sweep_of_many_views_takes_what_was_planned(sites: str | None) -> None:
    model, scenes = frozen(MANY), room_views(MANY, 1, 3)
    planned = sweeping(MANY, views=3, sites=sites)
    with Account(*model.parameters(), *tensors_of(scenes)) as account:
        _, counted = operations(lambda: sweep_heads(model, scenes, sites or "dec2.*.global_attn"))
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == pytest.approx(counted, rel=0.15)
    assert planned.count == MANY.depth * MANY.heads
    assert planned.at_once == MANY.heads


def test_what_has_no_pointmaps_is_traced_and_not_swept() -> None:
    found = plan(CROCO)
    assert found.sweeping is None
    assert found.tracing.count == 2 * (1 + 2) + 2 * (1 + 3 * 2)
    assert found.to_dict()["sweeping"] is None
    assert 0 < found.attributing.records < found.attributing.total
    with pytest.raises(Prob3rError, match="A CroCo has no pointmaps"):
        sweeping(CROCO)


def test_operations_are_those_of_mini() -> None:
    model = load("mini")
    pair = rooms(model.config, 1)
    _, counted = operations(lambda: trace(model, pair))
    assert tracing("mini").forward == counted


def test_attention_is_counted() -> None:
    """Two products of n x n x d for every attention, on top of those of the linear layers."""
    b, k, n, e = 2, 3, 5, 8
    stream = torch.rand(b, k, n, e)
    _, counted = operations(
        lambda: torch.nn.functional.scaled_dot_product_attention(stream, stream, stream)
    )
    assert counted == 2 * (2 * b * k * n * n * e)


def test_parts_are_what_they_should_be() -> None:
    traced, trained = tracing(SMALL), training(SMALL)
    model = DUSt3R(SMALL)
    backbone = sum(p.numel() for p in model.parameters())
    patches, blocks = 4 * 4, 2
    assert traced.weights == 4 * backbone
    decoder_sites = 2 * (1 + 3 * blocks)
    assert traced.count == decoder_sites + 2 * (1 + 2)
    assert traced.records == 4 * patches * (decoder_sites * 48 + 2 * (1 + 2) * 32)
    d, outputs = 48, 4 * 8 * 8
    probe = 2 * d + 4 * (d * d + d) + d * outputs + outputs
    assert trained.count == decoder_sites
    assert trained.gradients == 4 * decoder_sites * probe
    assert trained.weights == 4 * (backbone + decoder_sites * probe)
    steps = 4 * (2 + 2 * 5)  # a number for each parameter
    assert trained.optimizer == 2 * trained.gradients + steps
    assert traced.gradients == traced.optimizer == traced.backward == 0


@settings(max_examples=5)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_what_grows_with_the_batch(rows: int, columns: int, batch: int) -> None:
    size = 8 * rows, 8 * columns
    small, large = (tracing(SMALL, size, count) for count in (batch, 2 * batch))
    assert large.records == 2 * small.records
    assert large.forward == 2 * small.forward
    assert large.weights == small.weights
    assert large.activations > small.activations


def test_what_grows_with_the_batch_of_a_step() -> None:
    small, large = (training(SHALLOW, batch=count, kind="linear") for count in (1, 2))
    assert large.records == 2 * small.records
    assert (large.forward, large.backward) == (2 * small.forward, 2 * small.backward)
    assert large.weights == small.weights
    assert (large.gradients, large.optimizer) == (small.gradients, small.optimizer)
    assert large.activations > small.activations


def test_a_bank_holds_the_activations_of_one_group_at_a_time() -> None:
    shallow, deep = (training(replace(SMALL, dec_depth=depth), batch=16) for depth in (1, 4))
    assert deep.records > 3 * shallow.records
    assert deep.activations < 1.3 * shallow.activations + deep.gradients


def test_records_are_what_is_asked_for() -> None:
    sites = tracing(SMALL, record="dec2.*").records
    probs = tracing(SMALL, record=["dec2.*", "dec2.*.cross_attn.probs"])
    assert probs.count == 1 + 2 * 3 + 2
    assert probs.records == sites + 4 * 2 * 2 * 16 * 16


def test_every_way_to_name_a_model(tmp_path: Path) -> None:
    posed = PosedDUSt3R(SMALL).eval()
    save(posed, tmp_path / "posed.safetensors")
    by_path = tracing(tmp_path / "posed.safetensors")
    assert by_path == tracing(posed)
    assert by_path.weights == storage_bytes(posed.parameters())
    assert by_path.weights > tracing(SMALL).weights


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("naver/DUSt3R_ViTLarge_BaseDecoder_224_linear", 532),
        ("DUSt3R_ViTLarge_BaseDecoder_512_linear", 532),
        ("DUSt3R_ViTLarge_BaseDecoder_512_dpt", 571),
        ("naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric", 689),
        ("facebook/VGGT-1B", 1191),
        ("VGGT-1B", 1191),
        ("Pi3", 959),
    ],
)
def test_published_models_are_known_by_their_names(
    name: str, millions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the models' cards on the hub have it; VGGT's has the tracker, which is left out here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert round(info(name).parameters / 1e6) == millions
    found = published_model(name)
    assert found is not None
    assert isinstance(info(name).config, found[0].config_type)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": (12, 32)}, "size is 32x12 pixels; both sides must be positive multiples of 8"),
        ({"size": (0, 8)}, "size is 8x0 pixels"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"kind": "cubic"}, "kind is 'cubic'; it must be one of mlp, linear"),
        ({"views": 1}, "views is 1; for a model of the architecture dust3r it must be 2"),
        ({"views": 3}, "views is 3; for a model of the architecture dust3r it must be 2"),
        ({"sites": "dec2.*.mlp"}, "No site of this model matches 'dec2.*.mlp.probs'"),
        ({"record": "dec3.*"}, "No site of this model matches 'dec3.*'"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(Prob3rError, match=said.replace("*", r"\*")):
        plan(SMALL, **arguments)  # type: ignore[arg-type]


def test_a_dry_run_knows_indices_and_forgets_what_is_gone() -> None:
    with DryRun() as dry_run:
        numbers = torch.rand(100, 100)
        order = torch.arange(10).flip(0)
        assert order[3].item() == 6
        assert torch.ones(3, dtype=torch.bool).nonzero().flatten().tolist() == [0, 1, 2]
        assert torch.arange(3.0).dtype == torch.arange(3).float().dtype == torch.float32
        assert torch.arange(3).dtype == torch.int64
        before = dry_run.live
        product = numbers @ numbers.mT
        assert dry_run.live == before + 4 * 100 * 100
        assert (product + 1)[order].shape == (10, 100)
        assert dry_run.peak >= before + 2 * 4 * 100 * 100
        del product
        assert dry_run.live == before
        numbers.mul_(2).add_(1)
        assert dry_run.live == before


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prob3r", "plan", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def test_the_command_prints_a_table_and_writes_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    save(random(SHALLOW), path)
    options = ("--size", "32x16", "--batch", "2", "--record", "dec2.*", "--kind", "linear")
    assert run(monkeypatch, str(path), *options, "--json", str(tmp_path / "plan.json")) == 0
    out = capfd.readouterr().out
    for word in ("2 pairs of 32x16 pixels", "trace 4 records", "train 8 linear probes", "FLOP"):
        assert word in out
    found = tracing(SHALLOW, (16, 32), 2, "dec2.*")
    numbers = json.loads((tmp_path / "plan.json").read_text())
    assert numbers["size"] == [16, 32]
    assert numbers["tracing"]["total"] == found.total
    assert numbers["training"]["count"] == 8
    assert numbers["sweeping"]["naive"] == 2 * found.forward
    parts = numbers["attributing"]
    assert parts["forward"] == found.forward
    assert f"attribute to {parts['count']} heads" in out
    assert f"as many as {parts['operations'] / parts['forward']:.1f} runs" in out


def test_the_command_plans_for_many_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, numbers = tmp_path / "model.safetensors", tmp_path / "plan.json"
    save(random(MANY), path)
    options = ("--views", "3", "--kind", "linear", "--sites", "dec*.1.global_attn")
    assert run(monkeypatch, str(path), *options, "--json", str(numbers)) == 0
    out = capfd.readouterr().out
    for word in ("one scene of 3 views of 32x32 pixels", "linear probes on pairs", "sweep 6 heads"):
        assert word in out
    found = json.loads(numbers.read_text())
    assert found["views"] == 3
    assert found["sweeping"]["count"] == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prob3r.models.vggt:VGGT",), "made by code; plan takes models of the architectures"),
        (("maxi",), "There is no model 'maxi'"),
        (("mini", "--size", "wide"), "size is 'wide'; write one like 224"),
        (("mini", "--size", "100"), "multiples of 8"),
        (("mini", "--kind", "cubic"), "kind is 'cubic'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert run(monkeypatch, *arguments) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("prob3r: ")
    assert said in line


def test_an_attribution_runs_a_model_once_more_to_keep_less() -> None:
    deep = replace(SMALL, enc_depth=6, dec_depth=6)
    little, much = (attributing(deep, bound_memory=bound) for bound in (True, False))
    assert little.count == 2 * (6 * (2 + 2) + 6 * (3 + 2 * 2))  # sublayers, and 2 heads each
    assert little.records < 0.6 * much.records
    # A block runs once more; what is after the last block, and before the first, does not.
    again = little.operations - much.operations
    assert 0.6 * little.forward < again <= little.forward
    other = attributing(deep, bound_memory=False, another_run=True)
    assert other.operations == pytest.approx(much.operations + much.forward, rel=1e-3)
    assert other.records > much.records


def summed(views: Views, clean: Prediction) -> Measure:
    return lambda output: torch.stack([part.flatten(1).sum(1) for part in output.points]).sum(0)


@pytest.mark.parametrize(
    ("config", "views", "another_run"),
    [(SMALL, 2, False), (SMALL, 2, True), (DPT, 2, False), (MANY, 3, False)],
)
def test_an_attribution_takes_what_was_planned(
    config: Shape, views: int, another_run: bool
) -> None:
    model = random(config)
    assert isinstance(model, MultiViewModel)
    model.requires_grad_(False)
    scenes = room_views(config, 2, views)
    planned = attributing(config, batch=2, views=views, another_run=another_run)
    baseline = AnotherRun(scenes) if another_run else None
    with Account(*model.parameters(), *tensors_of(scenes)) as account:
        found = attribute(model, scenes, summed, baseline)
    _, counted = operations(lambda: attribute(model, scenes, summed, baseline))
    assert planned.total == pytest.approx(account.peak, rel=0.15)
    assert planned.operations == counted
    assert planned.count == len(found.parts())
