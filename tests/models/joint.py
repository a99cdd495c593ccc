"""The joint model of `examples/06_many_views.py`, and what it computes written out.

Blocks within a view and blocks over all views take turns; a camera token stands before the patches.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from prob3r.models import Adapter, Prediction
from prob3r.scenes import Pair, View, Views
from prob3r.scenes.views import views_of


def example(name: str) -> ModuleType:
    """Return one of the examples as a module."""
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXAMPLE: Any = example("06_many_views")

TOKENS = 17  # of a view: the camera token, then 4x4 patches

Change = Callable[[str, Tensor], Tensor]


def same(_: str, tensor: Tensor) -> Tensor:
    """Change nothing."""
    return tensor


def joint_model(seed: int = 3) -> Adapter:
    """Return the adapted model: 2 blocks of each kind, 4 heads, 32 channels."""
    torch.manual_seed(seed)
    return EXAMPLE.adapted(EXAMPLE.Joint())


def scene(views: int, scenes: int = 2, seed: int = 0) -> Views:
    """Return random photographs."""
    generator = torch.Generator().manual_seed(seed)
    images = 2 * torch.rand(views, scenes, 3, 64, 64, generator=generator) - 1
    found = [View(image) for image in images]
    return Pair(*found) if views == 2 else views_of(found, ())


@torch.no_grad()
def by_hand(
    module: Any,
    views: Views,
    logits: Change = same,
    heads: Change = same,
    stream: Change = same,
    added: Change = same,
) -> tuple[Prediction, dict[str, Tensor]]:
    """Return the prediction, and streams, maps and heads by site, one view and one head at a time.

    Args:
        module: The module within the adapter.
        views: What to run over.
        logits: Changes the logits `(b, k, n, m)` of a site.
        heads: Changes the outputs `(b, k, n, e)` of a site's heads.
        stream: Changes the stream after a site.
        added: Changes what a sublayer adds.
    """
    seen: dict[str, Tensor] = {}
    count = views.count

    def kept(site: str, tensor: Tensor) -> Tensor:
        seen[site] = stream(site, tensor)
        return seen[site]

    def attended(site: str, layer: nn.MultiheadAttention, own: Tensor, all_: Tensor) -> Tensor:
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        outputs, maps = [], []
        asked = []
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            q, k, v = (
                x @ w[rows].T + b[rows]
                for x, w, b in zip((own, all_, all_), weights, biases, strict=True)
            )
            asked.append((q @ k.mT / 8**0.5, v))
        changed = logits(f"{site}.probs", torch.stack([a for a, _ in asked], 1))
        for head, (_, v) in enumerate(asked):
            maps.append(changed[:, head].softmax(-1).nan_to_num(0.0))
            outputs.append(maps[-1] @ v)
        seen[f"{site}.probs"] = torch.stack(maps, 1)
        seen[f"{site}.heads"] = heads(f"{site}.heads", torch.stack(outputs, 1))
        joined = seen[f"{site}.heads"].transpose(1, 2).flatten(2)
        silent = (seen[f"{site}.probs"] == 0).all(-1).all(1)  # queries that see no key
        result: Tensor = layer.out_proj(joined)
        return result.masked_fill(silent[..., None], 0.0)

    def sublayer(site: str, x: Tensor, increment: Tensor) -> Tensor:
        return kept(site, x + added(site, increment))

    xs = []
    for v, view in enumerate(views.views):
        patches = module.tokens.proj(view.image).flatten(2).mT + module.tokens.position
        camera = module.tokens.camera[min(v, 1)].expand(len(patches), 1, -1)
        xs.append(kept(f"dec{v + 1}.embed", torch.cat((camera, patches), 1)))
    for i in range(2):
        for kind, block in (("within", module.within[i]), ("across", module.across[i])):
            attention, mlp = (
                ("self_attn", "mlp") if kind == "within" else ("global_attn", "global_mlp")
            )
            norms = [block.norm1(x) for x in xs]
            for v in range(count):
                site = f"dec{v + 1}.{i}"
                keys = norms[v] if mlp == "mlp" else torch.cat(norms, 1)
                increment = attended(f"{site}.{attention}", block.attn, norms[v], keys)
                xs[v] = sublayer(f"{site}.{attention}", xs[v], increment)
            for v in range(count):
                site = f"dec{v + 1}.{i}.{mlp}"
                xs[v] = sublayer(site, xs[v], block.mlp(block.norm2(xs[v])))
    points, confidence = [], []
    for x in xs:
        raw = module.head(module.norm(x[:, 1:])).mT.unflatten(-1, (4, 4))
        pixels = nn.functional.pixel_shuffle(raw, 16).permute(0, 2, 3, 1)
        points.append(pixels[..., :3])
        confidence.append(1 + pixels[..., 3].exp())
    return Prediction(tuple(points), tuple(confidence)), seen
