"""Adapters of models of several kinds: torch's own layers, and DUSt3R reached by hooks."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prob3r import trace
from prob3r.errors import Prob3rError
from prob3r.models import (
    Adapter,
    DUSt3R,
    DUSt3RConfig,
    PosedDUSt3R,
    Prediction,
    random,
)
from prob3r.models.hooks import AttentionHookPoint as Heads
from prob3r.models.hooks import HookPoint as Stream
from prob3r.models.hooks import put_first
from prob3r.models.protocol import stack_of
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation, Knockout, Skip, Transplant
from prob3r.scenes import Pair
from prob3r.training.probes import bank_for, record_streams
from tests.models.test_adapter import EXAMPLE, Sites, clean, hooks, pair
from tests.runs.edits.conftest import close, identical

__all__ = ["pair"]


class Layers(nn.Module):
    """A stack of `nn.TransformerEncoderLayer` over the tokens of both views, shared."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = EXAMPLE.Embed()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4 * 16**2)

    def forward(self, images: Tensor) -> Tensor:
        raw = self.head(self.encoder(self.embed(images)))
        return nn.functional.pixel_shuffle(raw.mT.unflatten(-1, (4, 4)), 16)


def test_torchs_own_layers_called_once_for_each_view(pair: Pair) -> None:
    def run(module: Layers, *images: Tensor) -> Prediction:
        maps1, maps2 = (module(view).permute(0, 2, 3, 1) for view in images)
        return Prediction(
            (maps1[..., :3], maps2[..., :3]), (maps1[..., 3].exp(), maps2[..., 3].exp())
        )

    sites: Sites = {}
    for view in (1, 2):
        for i in range(2):
            site, layer, call = f"enc{view}.{i}", f"encoder.layers.{i}", view - 1
            added = Stream(f"{layer}.dropout1", onto=f"{layer}.norm1", call=call)
            sites |= {
                f"{site}.self_attn.probs": Heads(f"{layer}.self_attn", call=call),
                f"{site}.self_attn": added,
                f"{site}.mlp": Stream(layer, call=call),
            }
    with pytest.raises(Prob3rError, match=r"'enc1\.0\.mlp' fires 2 times"):
        Adapter(Layers(), {"enc1.0.mlp": "encoder.layers.0"}, run, image_size=(64, 64), patch=16)
    model = Adapter(Layers(), sites, run, image_size=(64, 64), patch=16)
    plain = clean(model, pair)
    read = trace(model, pair, ["enc*", "enc*.probs"])
    close(read.output, plain)
    with torch.no_grad():
        layer = model.module.encoder.layers[0]
        norm = layer.norm1(model.module.embed(pair.view2.image))
        added, probs = layer.self_attn(norm, norm, norm, average_attn_weights=False)
    torch.testing.assert_close(Tensor(read["enc2.0.self_attn.probs"]), probs)
    cut = trace(model, pair, edits=[Knockout("enc2.0.self_attn", keys=[1])]).output
    assert cut is not None
    torch.testing.assert_close(cut.points[0], plain.points[0])
    assert not torch.allclose(cut.points[1], plain.points[1])
    encoder = bank_for(model, "encoder")[1]
    assert encoder.sites == ("enc1.1.mlp", "enc2.1.mlp")


def _dust3r_sites(model: DUSt3R) -> Sites:
    def get(output: Tensor) -> Tensor:
        return output.flatten(2).mT

    def put(output: Tensor, stream: Tensor) -> Tensor:
        return stream.mT.unflatten(-1, output.shape[2:])

    def split_self(module: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        parts = module.qkv(inputs["x"]).unflatten(-1, (3, module.heads, -1)).unbind(2)
        queries, keys, values = (part.transpose(1, 2) for part in parts)
        return inputs["rope"](queries), inputs["rope"](keys), values

    def split_cross(module: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = (
            project(x).unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for project, x in (
                (module.projq, inputs["x"]),
                (module.projk, inputs["other"]),
                (module.projv, inputs["other"]),
            )
        )
        return inputs["rope"](queries), inputs["rope_other"](keys), values

    def join(module: Any, heads: Tensor, output: Tensor) -> Any:
        return put_first(output, module.proj(heads.transpose(1, 2).flatten(2)))

    sites: Sites = {}
    for view in (1, 2):
        half = "view-major"
        sites[f"enc{view}.embed"] = Stream("patch_embed.proj", get, put, packed=half)
        for i in range(model.config.enc_depth):
            site, block = f"enc{view}.{i}", f"enc_blocks.{i}"
            attention = Heads(f"{block}.attn", split_self, join, packed=half)
            sites[f"{site}.self_attn.probs"] = attention
            sites[f"{site}.self_attn"] = Stream(f"{block}.attn", onto=f"{block}.norm1", packed=half)
            sites[f"{site}.mlp"] = Stream(block, packed=half)
        if not model.stacks["dec"].layout(view).special:  # else no submodule has them at its output
            sites[f"dec{view}.embed"] = Stream("decoder_embed", call=view - 1)
        for i in range(model.config.dec_depth):
            site, block = f"dec{view}.{i}", f"dec_blocks{'2' if view == 2 else ''}.{i}"
            sites |= {
                f"{site}.self_attn.probs": Heads(f"{block}.attn", split_self, join),
                f"{site}.self_attn": Stream(f"{block}.attn", onto=f"{block}.norm1"),
                f"{site}.cross_attn.probs": Heads(f"{block}.cross_attn", split_cross, join),
                f"{site}.cross_attn": Stream(f"{block}.cross_attn", onto=f"{block}.norm2"),
                f"{site}.mlp": block,
            }
    return sites


@pytest.mark.parametrize("kind", [DUSt3R, PosedDUSt3R])
def test_a_dust3r_through_hooks_is_the_one_through_taps(kind: type[DUSt3R], pair: Pair) -> None:
    own = random(kind(DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)), seed=1)
    adapter = Adapter(
        own,
        _dust3r_sites(own),
        lambda module, one, two: module(one, two),
        image_size=(32, 32),
        patch=8,
        tokens={"dec": own.stacks["dec"].layouts},
    )
    small = pair.map(lambda t: t[..., :32, :32])
    record = ["enc*", "dec*.mlp", "dec*_attn", "*.probs", "*.heads"]
    read, taps = (trace(model, small, record) for model in (adapter, own))
    assert identical(read.output, taps.output)
    assert read.keys() <= taps.keys()
    for site, tensor in read.items():
        torch.testing.assert_close(Tensor(tensor), Tensor(taps[site]), rtol=1e-5, atol=1e-5)
        if not site.endswith(("probs", "heads")):
            assert (stack_of(adapter, site).width, site) == (stack_of(own, site).width, site)
    other = trace(own, small.swap(), ["dec*.cross_attn", "dec*.heads"])
    edits = [
        Knockout("enc2.0.self_attn", keys=[0, 1], heads=[1]),
        Knockout("dec1.0.cross_attn", mode="zero", queries=[2, 3], scenes=[1]),
        Knockout("dec2.0.self_attn", scenes=[0]),
        HeadAblation("dec2.1.cross_attn", mode="resample", source=other, heads=[0]),
        Transplant("dec1.1.cross_attn", other, patches=[5]),
        Skip("enc1.0.mlp"),
    ]
    edited, expected = (trace(model, small, ["dec*.mlp"], edits) for model in (adapter, own))
    close(edited.output, expected.output)
    assert not identical(edited.output, read.output)
    assert hooks(adapter) == 0


def test_a_bank_skips_tokens_without_pixels() -> None:
    own = random(PosedDUSt3R(DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)), seed=1)
    rooms = Rooms("test", size=(32, 32), compile=False).batch(range(2))
    bank = ProbeBank(["dec1.1.mlp", "dec2.1.mlp"], ProbeConfig(24, 8, depth=1))
    streams = record_streams(own, bank, rooms)
    whole = trace(own, rooms, "dec2.1.mlp")["dec2.1.mlp"]
    assert whole.shape == (2, 17, 24)
    assert torch.equal(streams[1], Tensor(whole)[:, :16].flatten(0, 1))
