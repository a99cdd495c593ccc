"""Many views: a transformer whose views attend jointly, looked into by prob3r.

The model knows nothing of prob3r. It takes any number of views. Each block first lets the tokens of
a view attend among themselves, then the tokens of all views jointly. A camera token stands before
the patches of each view. Names with `*` in place of the view say where its sites are, whatever the
number of views.
"""

import torch
from torch import Tensor, nn

from prob3r import trace
from prob3r.models import Adapter, AttentionHookPoint, HookPoint, Prediction, TokenLayout
from prob3r.runs.edits import PATCHES, Knockout, Skip, token, view
from prob3r.runs.replay import Replay
from prob3r.scenes import View, Views

SIZE, PATCH, WIDTH, HEADS, BLOCKS = 64, 16, 32, 4, 2
GRID = SIZE // PATCH


# ---- Somebody else's model ----


class Tokens(nn.Module):
    """A camera token and the patches of each view; view 1 has a camera token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.position = nn.Parameter(torch.randn(GRID**2, WIDTH))
        self.camera = nn.Parameter(torch.randn(2, WIDTH))

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of `(b, v, 3, h, w)`, as one batch `(b * v, 1 + n, d)`."""
        scenes, views = images.shape[:2]
        patches = self.proj(images.flatten(0, 1)).flatten(2).mT + self.position
        which = (torch.arange(views, device=images.device) > 0).long()
        cameras = self.camera[which].repeat(scenes, 1)
        return torch.cat((cameras[:, None], patches), 1)


class Block(nn.Module):
    """Attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after the block."""
        own = self.norm1(x)
        x = x + self.attn(own, own, own, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Joint(nn.Module):
    """Blocks within each view, and blocks over all views, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = Tokens()
        self.within = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.across = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 4 * PATCH**2)

    def forward(self, images: Tensor) -> Tensor:
        """Return four numbers for each pixel, `(b, v, 4, h, w)`."""
        scenes, views = images.shape[:2]
        x = self.tokens(images)
        for within, across in zip(self.within, self.across, strict=True):
            x = within(x)
            x = across(x.unflatten(0, (scenes, views)).flatten(1, 2))
            x = x.unflatten(1, (views, -1)).flatten(0, 1)
        raw = self.head(self.norm(x[:, 1:])).mT.unflatten(-1, (GRID, GRID))
        return nn.functional.pixel_shuffle(raw, PATCH).unflatten(0, (scenes, views))


# ---- Its adapter ----


def run(model: Joint, *images: Tensor) -> Prediction:
    """Call the model, and say what its numbers are."""
    maps = model(torch.stack(images, 1)).permute(0, 1, 3, 4, 2).unbind(1)
    return Prediction(
        tuple(one[..., :3] for one in maps), tuple(1 + one[..., 3].exp() for one in maps)
    )


def site_map() -> dict[str, str | HookPoint | AttentionHookPoint]:
    """Return where every site is; `*` stands for each view."""
    sites: dict[str, str | HookPoint | AttentionHookPoint] = {}
    sites["dec*.embed"] = HookPoint("tokens", packed="scene-major")
    for i in range(BLOCKS):
        within, across = f"within.{i}", f"across.{i}"
        sites |= {
            # Here the views of a scene are rows of the batch, side by side.
            f"dec*.{i}.self_attn.probs": AttentionHookPoint(f"{within}.attn", packed="scene-major"),
            f"dec*.{i}.self_attn": HookPoint(
                f"{within}.attn", onto=f"{within}.norm1", packed="scene-major"
            ),
            f"dec*.{i}.mlp": HookPoint(within, packed="scene-major"),
            # Here the tokens of all views of a scene are one row: attention is joint.
            f"dec*.{i}.global_attn.probs": AttentionHookPoint(f"{across}.attn", packed="tokens"),
            f"dec*.{i}.global_attn": HookPoint(
                f"{across}.attn", onto=f"{across}.norm1", packed="tokens"
            ),
            f"dec*.{i}.global_mlp": HookPoint(across, packed="tokens"),
        }
    return sites


def adapted(model: Joint) -> Adapter:
    """Return the model as prob3r sees it; raise Prob3rError if the map is wrong."""
    return Adapter(
        model,
        site_map(),
        run,
        image_size=(SIZE, SIZE),
        patch=PATCH,
        tokens={"dec": TokenLayout(before=("camera",))},
    )


def model() -> Adapter:
    """Return the model with random weights: `--model 06_many_views:model`."""
    torch.manual_seed(0)
    return adapted(Joint())


# ---- What prob3r does with it ----


def main() -> None:
    """Trace five views at once, and cut what passes between them."""
    network = model()
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(5, 1, 3, SIZE, SIZE, generator=generator) - 1
    views = Views(tuple(View(image) for image in images))

    clean = trace(network, views, ["dec*.embed", "dec2.0.global_attn.probs"])
    assert clean.output is not None
    probs = clean["dec2.0.global_attn.probs"]
    print(f"view 2's attention, (scenes, heads, queries, keys of all views): {tuple(probs.shape)}")
    share = probs.mean((0, 1, 2)).unflatten(0, (5, -1)).sum(-1)
    print("its share on each view:", ", ".join(f"{s:.2f}" for s in share.tolist()))
    print("view 2's camera token:", tuple(clean["dec2.embed"].token("camera").shape))

    replay = Replay(network, views)
    cuts = {
        "no patch sees view 1's patches": [
            Knockout("dec*.*.global_attn", queries=PATCHES, keys=view(1) & PATCHES)
        ],
        "nobody sees a camera token": [Knockout("dec*.*.global_attn", keys=token("camera"))],
        "the last global attention adds nothing": [Skip(f"dec*.{BLOCKS - 1}.global_attn")],
    }
    for name, edits in cuts.items():
        cut = replay.run(edits).output
        assert cut is not None
        moved = [
            f"{(now - once).norm(dim=-1).mean():.3f}"
            for now, once in zip(cut.points, clean.output.points, strict=True)
        ]
        print(f"{name}: the points of views 1 to 5 move {', '.join(moved)}")


if __name__ == "__main__":
    main()
