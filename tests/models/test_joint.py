"""A foreign model whose views attend jointly: what its adapter shows and changes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prob3r import sweep, trace
from prob3r.errors import Prob3rError
from prob3r.models import Adapter, AttentionHookPoint, HookPoint, Model, TokenLayout, fingerprint
from prob3r.models.sites import Tap
from prob3r.runs.edits import (
    OWN_VIEW,
    PATCHES,
    HeadAblation,
    Knockout,
    Skip,
    Transplant,
    head_means,
    token,
    view,
)
from prob3r.runs.replay import Replay
from prob3r.scenes import Views
from tests.checks import every
from tests.models.joint import EXAMPLE, TOKENS, by_hand, joint_model, scene
from tests.runs.edits.conftest import at, close, flat, identical

SITE = "dec2.1.global_attn"


@pytest.fixture(scope="module")
def model() -> Adapter:
    return joint_model()


@pytest.fixture(params=[2, 5], scope="module")
def views(request: pytest.FixtureRequest) -> Views:
    return scene(request.param)


def columns(views: int, seen_by: Any) -> Tensor:
    """Return a mask of the joint keys, from `seen_by(view, place)`."""
    return torch.tensor([seen_by(v + 1, n) for v in range(views) for n in range(TOKENS)])


def test_it_is_a_model_of_any_number_of_views(model: Adapter) -> None:
    assert isinstance(model, Model)
    assert model.most_views is None
    stack = model.stacks["dec"]
    assert (stack.width, stack.heads, stack.blocks, stack.views) == (32, 4, 2, None)
    assert stack.sublayers == (("self_attn", "mlp", "global_attn", "global_mlp"),) * 2
    assert stack.layout(5) == TokenLayout(before=("camera",))
    assert len(model.sites(5)) == 5 * 9
    assert len(model.attention_sites(5)) == 5 * 4
    assert len(fingerprint(model)) == 16


def test_records_are_those_of_the_model_written_out(model: Adapter, views: Views) -> None:
    output, seen = by_hand(model.module, views)
    read = trace(model, views, ["dec*", "dec*.probs", "dec*.heads"])
    with torch.no_grad():
        assert identical(read.output, model(*views.images))
    close(read.output, output)
    assert read.keys() == seen.keys()
    for site, tensor in seen.items():
        torch.testing.assert_close(Tensor(read[site]), tensor, rtol=1e-5, atol=1e-5)
    assert read[f"{SITE}.probs"].shape == (2, 4, TOKENS, TOKENS * views.count)
    assert torch.equal(read["dec2.embed"].token("camera"), seen["dec2.embed"][:, 0])
    assert read["dec1.embed"].patches.shape == (2, 16, 32)


def test_a_tap_of_attend_alone_reads_without_changing_a_bit(model: Adapter, views: Views) -> None:
    class Watches(Tap):
        def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return super().attend(site, queries, keys, values)

    with torch.no_grad():
        assert identical(model(*views.images, tap=Watches()), model(*views.images))


def test_a_knockout_between_views_is_a_mask(model: Adapter, views: Views) -> None:
    edit = Knockout("dec2.*.global_attn", queries=PATCHES, keys=view(1) & PATCHES)
    cut = columns(views.count, lambda v, n: v == 1 and n > 0)

    def logits(site: str, values: Tensor) -> Tensor:
        if site not in ("dec2.0.global_attn.probs", "dec2.1.global_attn.probs"):
            return values
        patches = torch.arange(TOKENS) > 0
        return values.masked_fill(patches[:, None] & cut, -torch.inf)

    edited = trace(model, views, [f"{SITE}.probs"], [edit])
    output, seen = by_hand(model.module, views, logits)
    close(edited.output, output)
    torch.testing.assert_close(Tensor(edited[f"{SITE}.probs"]), seen[f"{SITE}.probs"])
    assert not identical(edited.output, trace(model, views).output)


def test_a_view_that_sees_only_itself(model: Adapter, views: Views) -> None:
    def logits(site: str, values: Tensor) -> Tensor:
        own = int(site[3])
        if "global" not in site:
            return values
        return values.masked_fill(columns(views.count, lambda v, n: v != own), -torch.inf)

    edited = trace(model, views, edits=[Knockout("dec*.*.global_attn", keys=~OWN_VIEW)])
    close(edited.output, by_hand(model.module, views, logits)[0])


def test_queries_that_see_nothing_add_nothing(model: Adapter, views: Views) -> None:
    edited = trace(model, views, edits=[Knockout(SITE, queries=token("camera"))])

    def logits(site: str, values: Tensor) -> Tensor:
        values = values.clone()
        values[:, :, 0] = -torch.inf
        return values

    close(
        edited.output, by_hand(model.module, views, at(f"{SITE}.probs", lambda t: logits("", t)))[0]
    )


def test_heads_are_ablated_by_zero_mean_and_another_scene(model: Adapter, views: Views) -> None:
    other = trace(model, scene(views.count, seed=1), [f"{SITE}.heads"])
    means = head_means(model, [views])
    plain = by_hand(model.module, views)[1]
    given = {
        "zero": torch.zeros(2, 1, 1, 1),
        "resample": Tensor(other[f"{SITE}.heads"])[:, 1:2],
        "mean": plain[f"{SITE}.heads"][:, 1:2].mean((0, 2), keepdim=True),
    }
    sources: dict[str, Any] = {"zero": None, "resample": other, "mean": means}
    for mode, value in given.items():

        def heads(tensor: Tensor, value: Tensor = value) -> Tensor:
            tensor = tensor.clone()
            tensor[:, 1:2] = value.expand_as(tensor[:, 1:2])
            return tensor

        edit = HeadAblation(SITE, heads=[1], mode=mode, source=sources[mode])
        output, _ = by_hand(model.module, views, heads=at(f"{SITE}.heads", heads))
        close(trace(model, views, edits=[edit]).output, output)


def test_streams_and_maps_are_transplanted(model: Adapter, views: Views) -> None:
    other = scene(views.count, seed=1)
    source = trace(model, other, ["dec*.0.global_attn", "dec*.probs"])
    edits = [Transplant("dec2.0.global_attn", source, patches=token("camera"))]

    def stream(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[:, 0] = Tensor(source["dec2.0.global_attn"])[:, 0]
        return tensor

    expected = by_hand(model.module, views, stream=at("dec2.0.global_attn", stream))[0]
    close(trace(model, views, edits=edits).output, expected)
    moved = trace(model, views, edits=[Transplant(f"{SITE}.probs", source)]).output
    log = by_hand(
        model.module, views, at(f"{SITE}.probs", lambda _: Tensor(source[f"{SITE}.probs"]).log())
    )
    close(moved, log[0])
    run = trace(model, views, ["dec1.0.global_attn", "dec2.1.mlp"])
    own = [Transplant(site, run) for site in run]
    assert identical(trace(model, views, edits=own).output, run.output)


@pytest.mark.parametrize("site", ["dec1.0.mlp", "dec2.1.global_attn", "dec2.0.self_attn"])
def test_a_skipped_sublayer_adds_nothing(model: Adapter, views: Views, site: str) -> None:
    expected = by_hand(model.module, views, added=at(site, torch.zeros_like))[0]
    close(trace(model, views, edits=[Skip(site)]).output, expected)


def test_replays_and_sweeps_give_what_traces_give(model: Adapter, views: Views) -> None:
    variants = {
        "between": [Knockout("dec*.1.global_attn", keys=view(1), queries=PATCHES)],
        "head": [HeadAblation(SITE, heads=[2])],
        "both": [Skip("dec1.0.mlp"), Knockout("dec2.0.self_attn", keys=token("camera"))],
    }
    replay = Replay(model, views, ["dec*.global_mlp"])
    stacked = flat(replay.stack(list(variants.values())))
    for number, edits in enumerate(variants.values()):
        alone = trace(model, views, ["dec*.global_mlp"], edits)
        rerun = replay.run(edits)
        close(rerun.output, alone.output)
        for site, record in alone.items():
            torch.testing.assert_close(Tensor(rerun[site]), Tensor(record), rtol=1e-5, atol=1e-5)
        for many, one in zip(stacked, flat(alone.output), strict=True):
            torch.testing.assert_close(many[2 * number : 2 * number + 2], one, rtol=1e-5, atol=1e-5)
    table = sweep(model, views, variants)
    assert set(table.variant) == set(variants)
    last = "" if views.count == 2 else f" of view {views.count}"
    assert every(table[table.metric == f"pointmap_error2{last}"].effect > 0)


def _map(packed: Any, **changes: Any) -> dict[str, Any]:
    return EXAMPLE.site_map() | {"dec*.embed": HookPoint("tokens", packed=packed)} | changes


def _embeds(*among: int) -> dict[str, Any]:
    point = HookPoint("tokens", packed="scene-major", among=among)
    return {"dec1.embed": point, "dec2.embed": point}


JOINT = AttentionHookPoint("across.0.attn", packed="tokens")


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        (_map("view-major"), r"'dec1\.embed' does not change with the image of view 1.*`packed`"),
        (_map("tokens"), r"'dec1\.embed' cannot read 'tokens': it has 17 tokens"),
        (_map(None), r"'dec1\.embed' has shape \(4, 17, 32\)"),
        (
            _map("scene-major", **{"dec*.0.self_attn.probs": JOINT}),
            r"'dec1\.0\.self_attn\.probs' is mapped to joint attention.*must be global_attn",
        ),
        (_embeds(2, 1), r"'dec1\.embed' does not change with the image of view 1"),
        (_embeds(2, 3), r"'dec1\.embed' is of view 1, and its hook point holds the views 2, 3"),
        (
            lambda views: _map("scene-major") if views == 2 else {"dec4.embed": "tokens"},
            r"map of 3 views has 'dec4\.embed'",
        ),
        (lambda views: _embeds(1, 2), r"'dec1\.embed' (cannot read|has shape|in one scene)"),
    ],
)
def test_a_broken_map_is_refused_in_one_sentence(sites: Any, sentence: str) -> None:
    with pytest.raises(Prob3rError, match=sentence) as caught:
        Adapter(
            EXAMPLE.Joint(),
            sites,
            EXAMPLE.run,
            image_size=(64, 64),
            patch=16,
            tokens={"dec": TokenLayout(before=("camera",))},
        )
    assert "\n" not in str(caught.value)


def test_layouts_and_numbers_of_views_are_checked(model: Adapter) -> None:
    def made(**others: Any) -> Adapter:
        what: dict[str, Any] = {"image_size": (64, 64), "patch": 16} | others
        return Adapter(EXAMPLE.Joint(), EXAMPLE.site_map(), EXAMPLE.run, **what)

    with pytest.raises(Prob3rError, match=r"'dec1\.embed' has shape .*16 tokens"):
        made()
    with pytest.raises(Prob3rError, match=r"`tokens` names the stack 'enc'.*are dec"):
        made(tokens={"enc": TokenLayout()})
    with pytest.raises(Prob3rError, match="most_views is 1"):
        made(most_views=1)
    with pytest.raises(Prob3rError, match="takes 2 or more views, and there are 1"):
        model(scene(2).images[0])
    three = made(tokens={"dec": TokenLayout(before=("camera",))}, most_views=3)
    with pytest.raises(Prob3rError, match="takes 2 to 3 views, and there are 5"):
        three(*scene(5).images)
    with pytest.raises(Prob3rError, match="packed 'batch'; it must be one of view-major"):
        HookPoint("tokens", packed="batch")
    with pytest.raises(Prob3rError, match="give both or none"):
        HookPoint("tokens", among=(1, 2))
