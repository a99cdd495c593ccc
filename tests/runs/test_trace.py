import importlib
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import entropy
from prob3r.models import Cameras, CroCo, DUSt3R, DUSt3RConfig, Prediction, random
from prob3r.runs.trace import REDUCTIONS, Record, Reduction, Trace, attention_on, trace
from prob3r.scenes import Pair, View
from prob3r.scenes.views import views_of
from tests.models.examples import EXAMPLES
from tests.taps import Keeper

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)


def flat(output: Prediction | None) -> tuple[Tensor, ...]:
    assert output is not None
    return (*output.points, *output.confidence)


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Two pairs whose views differ in size: 4x4 patches, and 2x3."""
    generator = torch.Generator().manual_seed(0)
    view1, view2 = (
        View(2 * torch.rand(2, 3, *size, generator=generator) - 1) for size in ((32, 32), (16, 24))
    )
    return Pair(view1, view2)


@pytest.fixture(scope="module")
def seen(model: DUSt3R, pair: Pair) -> dict[str, Tensor]:
    tap = Keeper()
    with torch.no_grad():
        model(*pair.images, tap=tap)
    return tap.records


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 3 queries of 2 pairs and 2 heads at a time, for 6 keys."""
    monkeypatch.setattr(
        importlib.import_module("prob3r.runs.trace"), "CHUNK_ELEMENTS", 3 * 2 * 2 * 6
    )


def test_records_are_what_a_tap_sees(
    model: DUSt3R, pair: Pair, seen: dict[str, Tensor], small_chunks: None
) -> None:
    run = trace(model, pair, ["enc?.*", "dec?.*", "*.probs"])
    assert set(run) == seen.keys()
    for site, record in run.items():
        if site.endswith("probs"):
            torch.testing.assert_close(record.as_subclass(Tensor), seen[site])
        else:
            assert torch.equal(record, seen[site]), site


def test_sites_of_both_views_are_recorded_when_they_share_the_encoder(model: DUSt3R) -> None:
    images = torch.rand(2, 3, 3, 32, 32)
    run = trace(model, Pair(View(images[0]), View(images[1])), "enc?.0.*")
    swapped = trace(model, Pair(View(images[1]), View(images[0])), "enc?.0.*")
    assert set(run) == {f"enc{v}.0.{s}" for v in (1, 2) for s in ("self_attn", "mlp")}
    torch.testing.assert_close(run["enc1.0.mlp"] + 0, swapped["enc2.0.mlp"] + 0)


def test_recording_does_not_change_the_output(model: DUSt3R, pair: Pair) -> None:
    with torch.no_grad():
        plain = model(pair.view1.image, pair.view2.image)
    for record in ((), "dec2.*", ["*.probs", "*.entropy", "enc1.embed"]):
        run = trace(model, pair, record)
        assert all(map(torch.equal, flat(run.output), flat(plain)))


def test_only_what_matches_is_kept(model: DUSt3R, pair: Pair) -> None:
    sites = ["dec2.0.cross_attn", "dec2.1.cross_attn"]
    assert list(trace(model, pair, "dec2.*.cross_attn")) == sites
    assert len(trace(model, pair)) == 0
    run = trace(model, pair, ["dec2.*.cross_attn", "dec2.1.cross_attn.argmax", "dec2.1.*"])
    assert set(run) == {
        *sites,
        "dec2.1.cross_attn.argmax",
        "dec2.1.self_attn",
        "dec2.1.mlp",
    }


def test_a_pattern_without_a_match_lists_near_ones(model: DUSt3R, pair: Pair) -> None:
    with pytest.raises(Prob3rError, match=r"matches 'dec2\.7\.mlp'; near matches are .*dec2\.1"):
        trace(model, pair, "dec2.7.mlp")
    with pytest.raises(Prob3rError, match=r"'dec2\.0\.mlp\.probs'; near matches are dec2\.0"):
        trace(model, pair, ["dec2.0.mlp.argmax"])


def test_a_site_that_never_fires_is_an_error(pair: Pair) -> None:
    class Boastful(DUSt3R):
        def sites(self, views: int = 2) -> list[str]:
            return [*super().sites(views), "dec2.9.mlp"]

    with pytest.raises(Prob3rError, match=r"'dec2\.9\.mlp' never fired"):
        trace(Boastful(CONFIG), pair, "dec2.*")


def test_a_record_that_was_not_asked_for_is_an_error(model: DUSt3R, pair: Pair) -> None:
    run = trace(model, pair, "dec2.*.mlp")
    with pytest.raises(Prob3rError, match=r"'dec1\.0\.mlp' was not recorded; .* dec2\.0\.mlp"):
        run["dec1.0.mlp"]


def test_without_an_output_nothing_after_the_last_site_runs(model: DUSt3R, pair: Pair) -> None:
    ran: list[str] = []

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda *_: ran.append(name))

    modules = dict(model.named_modules())
    names = ("dec_blocks.0.mlp", "dec_blocks2.0.attn", "dec_blocks2.0.cross_attn", "dec_blocks.1")
    handles = [note(name, modules[name]) for name in (*names, "downstream_head1")]
    run = trace(model, pair, ["dec1.embed", "dec2.0.self_attn"], output=False)
    early = list(ran)
    trace(model, pair, "dec2.0.self_attn")
    for handle in handles:
        handle.remove()
    assert run.output is None
    assert set(run) == {"dec1.embed", "dec2.0.self_attn"}
    assert early == ["dec_blocks.0.mlp", "dec_blocks2.0.attn"]
    assert ran[len(early) :] == [*names, "downstream_head1"]


def test_reductions_are_those_of_the_full_map(
    model: DUSt3R, pair: Pair, seen: dict[str, Tensor], small_chunks: None
) -> None:
    run = trace(model, pair, [f"dec?.*.{name}" for name in REDUCTIONS])
    for site in ("dec1.0.cross_attn", "dec2.1.self_attn", "dec2.1.cross_attn"):
        probs = seen[f"{site}.probs"]
        torch.testing.assert_close(run[f"{site}.probs"] + 0, probs)
        assert torch.equal(run[f"{site}.argmax"], probs.argmax(-1))
        torch.testing.assert_close(run[f"{site}.entropy"] + 0, entropy(probs))
        torch.testing.assert_close(run[f"{site}.mass"] + 0, probs.mean(2))


def test_attention_is_built_a_few_queries_at_a_time(
    model: DUSt3R, pair: Pair, small_chunks: None
) -> None:
    sizes: list[int] = []

    def largest(probs: Tensor) -> Tensor:
        sizes.append(probs.shape[2])
        return probs.amax(-1)

    run = trace(
        model, pair, "dec1.0.cross_attn.largest", reductions={"largest": Reduction(largest)}
    )
    assert sizes == [3, 3, 3, 3, 3, 1]
    assert run["dec1.0.cross_attn.largest"].shape == (2, 2, 16)


def test_mass_is_the_attention_on_chosen_keys(
    model: DUSt3R, pair: Pair, seen: dict[str, Tensor], small_chunks: None
) -> None:
    mask = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    reductions = {"some": attention_on(torch.tensor([1, 4])), "masked": attention_on(mask)}
    site = "dec1.1.cross_attn"
    run = trace(model, pair, [f"{site}.some", f"{site}.masked"], reductions=reductions)
    probs = seen[f"{site}.probs"]
    torch.testing.assert_close(run[f"{site}.some"] + 0, probs[..., 1] + probs[..., 4])
    expected = torch.stack([probs[0, ..., 0] + probs[0, ..., 3], probs[1, ..., 5]])
    torch.testing.assert_close(run[f"{site}.masked"] + 0, expected)


def test_a_record_is_a_tensor_that_knows_its_origin(
    model: DUSt3R, pair: Pair, seen: dict[str, Tensor]
) -> None:
    run = trace(model, pair, ["dec1.0.mlp", "dec2.0.mlp", "dec2.0.cross_attn.argmax"])
    record = run["dec2.0.mlp"]
    assert isinstance(record, Record)
    assert isinstance(record, Tensor)
    assert (record.site, record.grid) == ("dec2.0.mlp", (2, 3))
    assert run["dec1.0.mlp"].grid == (4, 4)
    assert run["dec2.0.cross_attn.argmax"].grid == (2, 3)
    assert not record.requires_grad
    for computed in (record + 1, record[0], record.mean(1), torch.stack([record, record])):
        assert type(computed) is Tensor
    assert torch.equal(record * 2, seen["dec2.0.mlp"] * 2)


def test_records_come_in_the_dtype_and_on_the_device_asked_for(
    model: DUSt3R, pair: Pair, seen: dict[str, Tensor]
) -> None:
    patterns = ["dec2.0.mlp", "dec2.0.cross_attn.probs"]
    half = trace(model, pair, patterns, dtype=torch.bfloat16)
    assert torch.equal(half["dec2.0.mlp"], seen["dec2.0.mlp"].bfloat16())
    away = trace(model, pair, patterns, device="meta")
    assert {record.device.type for record in away.values()} == {"meta"}
    assert away.output is not None
    assert away.output.points[0].device.type == "cpu"


def test_the_model_and_the_pair_are_left_as_they_were(model: DUSt3R, pair: Pair) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = trace(model, pair, "dec2.*", output=False)
    again = trace(model, pair.named(()), "dec2.*", output=False)
    assert isinstance(first, Trace)
    assert all(torch.equal(first[site], again[site]) for site in first)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())


def test_a_record_of_one_view_holds_no_memory_of_the_others() -> None:
    """Views run as one batch; only a record of all of them shares its memory."""
    vggt = EXAMPLES["vggt"]()
    views = views_of([View(torch.randn(1, 3, 28, 42)) for _ in range(3)])
    whole = trace(vggt, views, ["*", "*.heads"])
    part = trace(vggt, views, ["*2.*", "*2.*.heads"])
    assert len(part) > 20
    for site, record in part.items():
        assert record.untyped_storage().nbytes() == record.nbytes, site
        assert torch.equal(record, whole[site]), site
    shared = [r for r in whole.values() if r.untyped_storage().nbytes() > r.nbytes]
    assert len(shared) > 20


def test_a_call_gives_the_model_more_than_images() -> None:
    """Here which patches are hidden, and the cameras where they are known."""
    croco = EXAMPLES["croco"]()
    assert isinstance(croco, CroCo)
    generator = torch.Generator().manual_seed(1)
    scenes = views_of([View(2 * torch.rand(2, 3, 28, 42, generator=generator) - 1)] * 2)
    mask = croco.draw_mask(scenes.images[0], generator)
    completed = trace(
        croco,
        scenes,
        ["enc1.*", "dec1.*"],
        output=False,
        call=lambda *images, tap: croco.complete(*images, mask, tap=tap),
    )
    assert completed["enc1.0.mlp"].shape[1] == 3  # the half that is not hidden
    assert completed["dec1.0.mlp"].shape[1] == 6
    plain = trace(croco, scenes, ["dec1.0.mlp"], output=False)
    assert not torch.equal(completed["dec1.0.mlp"], plain["dec1.0.mlp"])

    posed = EXAMPLES["depth-anything-3"]()
    cameras = Cameras(torch.eye(4).repeat(2, 2, 1, 1), torch.eye(3).repeat(2, 2, 1, 1) * 30)
    cameras.cam_to_world[:, 1, 0, 3] = 1
    known = trace(posed, scenes, "dec*", call=partial(posed, cameras=cameras))
    with torch.no_grad():
        expected = posed(*scenes.images, cameras=cameras)
    assert all(map(torch.equal, flat(known.output), flat(expected)))
    unknown = trace(posed, scenes, "dec*")
    last = posed.head_sites()[-1]
    assert not torch.equal(known[last], unknown[last])
