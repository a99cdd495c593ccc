"""An adapter shows what the module computes, changes what it is told, and leaves nothing behind."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prob3r import sweep, trace
from prob3r.errors import Prob3rError
from prob3r.models import (
    Adapter,
    Model,
    Prediction,
    TokenLayout,
    fingerprint,
)
from prob3r.models.hooks import AttentionHookPoint as Heads
from prob3r.models.hooks import HookPoint as Stream
from prob3r.models.hooks import join_multihead, split_multihead
from prob3r.models.sites import Tap
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation, Knockout, Skip, Transplant, head_means
from prob3r.runs.replay import Replay
from prob3r.scenes import Framing, Pair, View
from prob3r.training import site_losses
from prob3r.training.probes import bank_for, record_streams
from tests.checks import every
from tests.runs.edits.conftest import close, flat, identical

Sites = dict[str, str | Stream | Heads]
ATTENTION = [f"dec{v}.{i}.{s}" for i in (0, 1) for v in (1, 2) for s in ("self_attn", "cross_attn")]


def _example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "05_bring_your_own_model.py"
    spec = importlib.util.spec_from_file_location("bring_your_own_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLE: Any = _example()


@pytest.fixture(scope="module")
def model() -> Adapter:
    """The model of the example: 2 blocks, 4 heads, 32 channels, 4x4 patches of 16 pixels."""
    torch.manual_seed(3)
    return EXAMPLE.adapted(EXAMPLE.TwoViews())


@pytest.fixture(scope="module")
def pair() -> Pair:
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(2, 3, 3, 64, 64, generator=generator) - 1
    return Pair(View(images[0]), View(images[1]))


@torch.no_grad()
def by_hand(
    module: Any, pair: Pair, cut: str = "", seen: Tensor | None = None, skip: str = ""
) -> tuple[Prediction, dict[str, Tensor], dict[str, Tensor]]:
    """Return output, streams and attention maps of the example's model, written out.

    Attention at `cut` sees only the keys of `seen` `(n, m)`; the sublayer `skip` adds nothing.
    """
    streams: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}

    def attended(site: str, attention: nn.MultiheadAttention, x: Tensor, other: Tensor) -> Tensor:
        mask = None if site != cut or seen is None else ~seen
        added, maps[f"{site}.probs"] = attention(
            x, other, other, attn_mask=mask, need_weights=True, average_attn_weights=False
        )
        return 0 * added if site == skip else added

    xs = [module.embed(view.image) for view in (pair.view1, pair.view2)]
    streams["dec1.embed"], streams["dec2.embed"] = xs
    for i in range(2):
        before = list(xs)
        for v, stack in enumerate((module.decoder1, module.decoder2)):
            block, x, site = stack[i], before[v], f"dec{v + 1}.{i}"
            own = block.norm1(x)
            x = x + attended(f"{site}.self_attn", block.self_attn, own, own)
            streams[f"{site}.self_attn"] = x
            norm = block.norm2(x)
            x = x + attended(f"{site}.cross_attn", block.cross_attn, norm, before[1 - v])
            streams[f"{site}.cross_attn"] = x
            x = x if f"{site}.mlp" == skip else x + block.mlp(block.norm3(x))
            streams[f"{site}.mlp"] = xs[v] = x
    raw = [module.head(x).mT.unflatten(-1, (4, 4)) for x in xs]
    maps1, maps2 = (nn.functional.pixel_shuffle(r, 16).permute(0, 2, 3, 1) for r in raw)
    points = maps1[..., :3], maps2[..., :3]
    return Prediction(points, (1 + maps1[..., 3].exp(), 1 + maps2[..., 3].exp())), streams, maps


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def clean(model: Adapter, pair: Pair) -> Prediction:
    with torch.no_grad():
        return model(pair.view1.image, pair.view2.image)


def test_it_is_a_two_view_model(model: Adapter) -> None:
    assert isinstance(model, Model)
    stack = model.stacks["dec"]
    assert (stack.width, stack.heads, stack.blocks) == (32, 4, 2)
    assert not stack.layout(2).special
    assert Framing.of(model) == Framing(64, "square", 16)
    assert len(fingerprint(model)) == 16


def test_reading_changes_no_bit_and_leaves_nothing(model: Adapter, pair: Pair) -> None:
    read = trace(model, pair, ["dec*", "dec*.probs", "dec*.heads"])
    assert identical(read.output, clean(model, pair))
    assert hooks(model) == 0


def test_records_are_those_of_the_model_written_out(model: Adapter, pair: Pair) -> None:
    output, streams, maps = by_hand(model.module, pair)
    read = trace(model, pair, ["dec*", "dec*.probs"])
    close(read.output, output)
    assert read.keys() == streams.keys() | maps.keys()
    for site, tensor in (streams | maps).items():
        torch.testing.assert_close(Tensor(read[site]), tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", ATTENTION)
def test_a_knockout_is_a_mask_of_the_module(model: Adapter, pair: Pair, site: str) -> None:
    seen = torch.ones(16, 16, dtype=torch.bool)
    seen[2:5, 7:12] = False
    edit = Knockout(site, queries=[2, 3, 4], keys=list(range(7, 12)))
    edited = trace(model, pair, f"{site}.probs", [edit])
    output, _, maps = by_hand(model.module, pair, site, seen)
    close(edited.output, output)
    assert not identical(edited.output, clean(model, pair))
    torch.testing.assert_close(Tensor(edited[f"{site}.probs"]), maps[f"{site}.probs"])


@pytest.mark.parametrize("site", ["dec1.0.self_attn", "dec2.1.cross_attn", "dec1.1.mlp"])
def test_a_skipped_sublayer_adds_nothing(model: Adapter, pair: Pair, site: str) -> None:
    close(trace(model, pair, edits=[Skip(site)]).output, by_hand(model.module, pair, skip=site)[0])
    if "attn" in site:  # no key left: the sublayer adds nothing, not even a bias
        edited = trace(model, pair, edits=[Knockout(site)]).output
        close(edited, by_hand(model.module, pair, skip=site)[0])


def test_a_head_that_is_zero_is_a_projection_without_it(pair: Pair) -> None:
    module = EXAMPLE.TwoViews()
    edited = trace(
        EXAMPLE.adapted(module), pair, edits=[HeadAblation("dec2.0.cross_attn", heads=[1])]
    )
    module.decoder2[0].cross_attn.out_proj.weight.data[:, 8:16] = 0
    close(edited.output, by_hand(module, pair)[0])


def test_streams_can_be_patched(model: Adapter, pair: Pair) -> None:
    other = pair.swap()
    source = trace(model, other, ["dec*.mlp", "dec*.embed", "dec*.self_attn"])
    everything = [Transplant("dec?.1.mlp", source)]
    close(trace(model, pair, edits=everything).output, source.output)
    both = [Transplant(f"dec{v}.1.self_attn", source, patches=[1, 5]) for v in (1, 2)]
    record = trace(model, pair, "dec*.self_attn", both)["dec2.1.self_attn"]
    expected = Tensor(source["dec2.1.self_attn"])[:, [1, 5]]
    torch.testing.assert_close(Tensor(record)[:, [1, 5]], expected)


@pytest.mark.parametrize("site", ["dec1.embed", "dec2.0.cross_attn", "dec2.1.mlp"])
def test_a_stream_in_its_own_place_changes_no_bit(model: Adapter, pair: Pair, site: str) -> None:
    run = trace(model, pair, site)
    assert identical(trace(model, pair, edits=[Transplant(site, run)]).output, run.output)


def test_a_run_that_ends_early_leaves_nothing(model: Adapter, pair: Pair) -> None:
    class Fails(Tap):
        def __call__(self, site: str, tensor: Tensor) -> Tensor:
            if site == "dec2.1.self_attn":
                raise ValueError(site)
            return tensor

    with pytest.raises(ValueError, match=r"dec2\.1"):
        model(*pair.images, tap=Fails())
    assert hooks(model) == 0
    assert trace(model, pair, "dec1.0.mlp", output=False).output is None
    assert hooks(model) == 0


def test_means_replays_and_sweeps_take_it(model: Adapter, pair: Pair) -> None:
    means = head_means(model, [pair])
    variants = {
        "mean": [HeadAblation("dec2.0.cross_attn", mode="mean", source=means)],
        "cut": [Knockout("dec1.1.self_attn", heads=[0], keys=[3])],
        "both": [Knockout("dec2.1.cross_attn"), Skip("dec1.0.mlp")],
    }
    replay = Replay(model, pair, ["dec*.mlp"])
    stacked = flat(replay.stack(list(variants.values())))
    for number, edits in enumerate(variants.values()):
        alone = trace(model, pair, ["dec*.mlp"], edits)
        rows = slice(3 * number, 3 * number + 3)
        for many, one in zip(stacked, flat(alone.output), strict=True):
            torch.testing.assert_close(many[rows], one, rtol=1e-5, atol=1e-5)
        rerun = replay.run(edits)
        close(rerun.output, alone.output)
        for site, record in alone.items():
            torch.testing.assert_close(Tensor(rerun[site]), Tensor(record), rtol=1e-5, atol=1e-5)
    table = sweep(model, pair, variants)
    assert set(table.variant) == set(variants)
    assert every(table[table.metric == "pointmap_error2"].effect > 0)


def test_probes_read_it(model: Adapter) -> None:
    rooms = Rooms("test", size=(64, 64), compile=False).batch(range(2))
    _, bank = bank_for(model, "linear")
    assert set(bank.sites) == set(model.sites())
    site_losses(bank, record_streams(model, bank, rooms), rooms).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bank.parameters())
    record = trace(model, rooms, "dec2.1.mlp")["dec2.1.mlp"]
    assert bank.decode(record).points.shape == (2, 64, 64, 3)
    for kind, why in (
        ("tuned", "linear head, and this Adapter has no `lens_head`"),
        ("encoder", "no 'enc' sites"),
    ):
        with pytest.raises(Prob3rError, match=why):
            bank_for(model, kind)


def _rebuilt(changes: Mapping[str, str | Stream | Heads | None], **others: Any) -> Adapter:
    sites = {k: v for k, v in (EXAMPLE.site_map() | dict(changes)).items() if v is not None}
    what: dict[str, Any] = {"run": EXAMPLE.run, "image_size": (64, 64), "patch": 16} | others
    return Adapter(EXAMPLE.TwoViews(), sites, **what)


def _scaled(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = split_multihead(module, inputs)
    return 2 * queries, keys, values


def _swapped(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(t.transpose(1, 2) for t in split_multihead(module, inputs))  # type: ignore[return-value]


def _endless(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = split_multihead(module, inputs)
    return queries * torch.inf, keys, values


def _same(output: Any) -> Any:
    return output


PROBS, STREAM, MLP = "dec2.1.cross_attn.probs", "dec2.1.cross_attn", "dec1.0.mlp"
CROSS = "decoder2.1.cross_attn"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dec1.0.norm": "head"}, r"'dec1\.0\.norm' is not a site"),
        ({MLP: "decoder1.7"}, r"'dec1\.0\.mlp' is mapped to 'decoder1\.7'.*decoder1"),
        ({MLP: Stream("decoder1.0", onto="norm9")}, r"'dec1\.0\.mlp' is mapped to 'norm9'"),
        (
            {MLP: Heads("decoder1.0")},
            r"'dec1\.0\.mlp' .* AttentionHookPoint; give a HookPoint",
        ),
        ({STREAM: None}, r"'dec2\.1\.cross_attn\.probs' without 'dec2\.1\.cross_attn'"),
        ({PROBS: "decoder2.1"}, r"'dec2\.1\.cross_attn\.probs' cannot read .* is a Block"),
        ({MLP: Stream("decoder1.0", call=1)}, r"'dec1\.0\.mlp' fires 0 times"),
        ({PROBS: Heads(CROSS, call=3)}, r"'dec2\.1\.cross_attn\.probs' fires 0 times"),
        ({"dec1.embed": "embed"}, r"'dec1\.embed' has shape \(4, 16, 32\)"),
        ({"dec1.0.mlp": "decoder1.0.mlp.0"}, r"'dec1\.0\.mlp' has shape \(2, 16, 128\)"),
        (
            {PROBS: Heads(CROSS, split=_swapped)},
            r"values of 'dec2\.1\.cross_attn\.probs'",
        ),
        (
            {PROBS: Heads(CROSS, split=_endless)},
            r"'dec2\.1\.cross_attn\.probs' don't sum",
        ),
        (
            {PROBS: Heads(CROSS, split=_scaled)},
            r"heads of 'dec2\.1\.cross_attn\.probs'",
        ),
        (
            {MLP: Stream("decoder1.0", _same, lambda _, x: 2 * x)},
            r"'dec1\.0\.mlp', put back as it was",
        ),
        (
            {MLP: Stream("decoder1.0", _same, lambda out, _: out)},
            r"edit of 'dec1\.0\.mlp' does not",
        ),
        (
            {STREAM: Stream("decoder2.1.norm2", onto="decoder2.1.norm3")},
            r"'dec2\.1\.cross_attn' adds onto the input of 'decoder2\.1\.norm3'",
        ),
    ],
)
def test_a_broken_map_is_refused_in_one_sentence(changes: Sites, sentence: str) -> None:
    with pytest.raises(Prob3rError, match=sentence) as caught:
        _rebuilt(changes)
    assert "\n" not in str(caught.value)


def test_broken_runs_are_refused() -> None:
    with pytest.raises(Prob3rError, match="must return a Prediction"):
        _rebuilt({}, run=lambda module, *images: EXAMPLE.run(module, *(i[:1] for i in images)))
    with pytest.raises(Prob3rError, match="differ by"):
        _rebuilt({}, run=lambda module, *images: EXAMPLE.run(module, *map(_shaken, images)))
    with pytest.raises(Prob3rError, match=r"'dec1\.embed' has shape"):
        _rebuilt({}, tokens={"dec": TokenLayout(after=("camera",))})
    with pytest.raises(Prob3rError, match="only one of `get` and `put`"):
        Stream("embed", get=_same)


def _shaken(images: Tensor) -> Tensor:
    return images + torch.randn_like(images)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 12, "vdim": 20}], ids=["plain", "no bias", "dims"]
)
def test_multihead_attention_is_taken_apart_and_joined(
    batch_first: bool, options: dict[str, Any]
) -> None:
    module = nn.MultiheadAttention(16, 4, batch_first=batch_first, **options).eval()
    widths = 16, options.get("kdim", 16), options.get("vdim", 16)
    tokens = [torch.randn(2, n, d) for n, d in zip((5, 7, 7), widths, strict=True)]
    given = [t if batch_first else t.transpose(0, 1) for t in tokens]
    output = module(*given, average_attn_weights=False)
    split = split_multihead(module, dict(zip(("query", "key", "value"), given, strict=True)))
    assert [t.shape for t in split] == [(2, 4, 5, 4), (2, 4, 7, 4), (2, 4, 7, 4)]
    probs = (split[0] @ split[1].mT / 2).softmax(-1)
    torch.testing.assert_close(probs, output[1])
    joined = join_multihead(module, probs @ split[2], output)
    torch.testing.assert_close(joined[0], output[0])
    assert joined[1] is output[1]
    with pytest.raises(Prob3rError, match="mask"):
        split_multihead(module, {"query": tokens[0], "attn_mask": torch.zeros(5, 7)})


def test_the_map_is_part_of_the_fingerprint(model: Adapter) -> None:
    sites = {k: v for k, v in EXAMPLE.site_map().items() if not k.startswith("dec1.0")}
    fewer = Adapter(model.module, sites, EXAMPLE.run, image_size=(64, 64), patch=16)
    assert fingerprint(fewer) != fingerprint(model)
    assert replace(fewer.config, sites=model.config.sites) == model.config
