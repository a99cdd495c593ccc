"""Bring your own model: a two-view transformer of plain torch modules, looked into by prob3r.

The model knows nothing of prob3r. A map says which of its submodules hold which sites; an adapter
tries the map and is then a model like any other: to trace, to cut, to train probes on.
"""

import torch
from torch import Tensor, nn

from prob3r import trace
from prob3r.models import Adapter, HookPoint, Prediction
from prob3r.probes import ProbeBank, ProbeConfig
from prob3r.rooms import Rooms
from prob3r.runs.edits import Knockout
from prob3r.training import site_losses
from prob3r.training.probes import record_streams

SIZE, PATCH, WIDTH, HEADS, BLOCKS = 64, 16, 32, 4, 2


# ---- Somebody else's model ----


class Embed(nn.Module):
    """Patches and their learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.position = nn.Parameter(torch.randn((SIZE // PATCH) ** 2, WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        """Return patches, `(b, n, d)`."""
        return self.proj(images).flatten(2).mT + self.position


class Block(nn.Module):
    """Self-attention, cross-attention to the other view, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the stream after the block."""
        own = self.norm1(x)
        x = x + self.self_attn(own, own, own, need_weights=False)[0]
        x = x + self.cross_attn(self.norm2(x), other, other, need_weights=False)[0]
        return x + self.mlp(self.norm3(x))


class TwoViews(nn.Module):
    """A shared embedding and two decoders that look at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Embed()
        self.decoder1 = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.decoder2 = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 4 * PATCH**2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Return four numbers for every pixel of both views."""
        x1, x2 = self.embed(torch.cat((left, right))).chunk(2)  # both views as one batch
        for block1, block2 in zip(self.decoder1, self.decoder2, strict=True):
            x1, x2 = block1(x1, x2), block2(x2, x1)
        pixels = nn.functional.pixel_shuffle
        grid = (SIZE // PATCH, SIZE // PATCH)
        maps = [pixels(self.head(x).mT.unflatten(-1, grid), PATCH) for x in (x1, x2)]
        return {"left": maps[0], "right": maps[1]}


# ---- Its adapter ----


def run(model: TwoViews, images1: Tensor, images2: Tensor) -> Prediction:
    """Call the model and say what its numbers are."""
    maps = model(images1, images2)
    maps1, maps2 = (maps[name].permute(0, 2, 3, 1) for name in ("left", "right"))
    return Prediction(
        (maps1[..., :3], maps2[..., :3]), (1 + maps1[..., 3].exp(), 1 + maps2[..., 3].exp())
    )


def site_map() -> dict[str, str | HookPoint]:
    """Return where every site is."""
    sites: dict[str, str | HookPoint] = {}
    for view in (1, 2):
        # The embedding runs once, and each view is one half of its batch.
        sites[f"dec{view}.embed"] = HookPoint("embed", packed="view-major")
        for i in range(BLOCKS):
            site, block = f"dec{view}.{i}", f"decoder{view}.{i}"
            sites |= {
                f"{site}.self_attn.probs": f"{block}.self_attn",
                # No submodule gives the stream between two sublayers: it is what enters the norm
                # and what the sublayer adds onto it.
                f"{site}.self_attn": HookPoint(f"{block}.self_attn", onto=f"{block}.norm1"),
                f"{site}.cross_attn.probs": f"{block}.cross_attn",
                f"{site}.cross_attn": HookPoint(f"{block}.cross_attn", onto=f"{block}.norm2"),
                f"{site}.mlp": block,
            }
    return sites


def adapted(model: TwoViews) -> Adapter:
    """Return the model as prob3r sees it; raise Prob3rError if the map is wrong."""
    return Adapter(model, site_map(), run, image_size=(SIZE, SIZE), patch=PATCH)


def model() -> Adapter:
    """Return the model with random weights: `--model 05_bring_your_own_model:model`."""
    torch.manual_seed(0)
    return adapted(TwoViews())


# ---- What prob3r does with it ----


def main() -> None:
    """Trace the model, cut it, and train probes on it."""
    network = model()
    rooms = Rooms("train", size=(SIZE, SIZE), compile=False)

    pair = rooms.batch(range(2))
    clean = trace(network, pair, ["dec2.*.mlp", "dec2.*.cross_attn.argmax"])
    print("sites recorded:", ", ".join(clean))
    print("view 1's patch that each patch of view 2 looks at (block 1, head 0):")
    print(clean["dec2.1.cross_attn.argmax"][0, 0].unflatten(0, clean["dec2.1.mlp"].grid))

    cut = trace(network, pair, edits=[Knockout("dec2.*.cross_attn")])
    assert clean.output is not None
    assert cut.output is not None
    for view in (0, 1):
        moved = (cut.output.points[view] - clean.output.points[view]).norm(dim=-1).mean()
        print(f"without view 2's cross-attention, view {view + 1}'s points move {moved:.3f}")

    sites = [site for site in network.sites() if site.endswith(("embed", "mlp"))]
    bank = ProbeBank(sites, ProbeConfig(WIDTH, PATCH, depth=2))
    optimizer = torch.optim.Adam(bank.parameters(), lr=3e-3)
    batches = [rooms.batch(range(start, start + 8)) for start in (0, 8, 16, 24)]
    for step in range(40):
        pairs = batches[step % 4]
        losses = site_losses(bank, record_streams(network, bank, pairs), pairs)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        if step in (0, 39):
            told = ", ".join(f"{s} {v:.2f}" for s, v in zip(sites, losses.tolist(), strict=True))
            print(f"probe losses at step {step}: {told}")


if __name__ == "__main__":
    main()
