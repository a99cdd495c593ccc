"""An explanation in the form that the page's scripts read: JSON, arrays as little-endian base64."""

import base64
import io
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image
from torch import Tensor

from prob3r.geometry import patch_grid
from prob3r.io.files import to_json
from prob3r.measures.arrows import Arrows
from prob3r.measures.attention import Strongest
from prob3r.measures.influence import Influence
from prob3r.measures.measurements import Measured
from prob3r.measures.reference import TRUTH, Points
from prob3r.measures.steps import SUBLAYER_WORDS, stack_words
from prob3r.report.explanation import Explanation
from prob3r.scenes import View

# Limits on the size of the page, for any model: the points of one view's final pointmap, and the
# points of all sites and views together. With `measures.attention.KEPT` a page stays under 15 MB.
FINAL_POINTS = 40_000
SITE_POINTS = 360_000
NOWHERE = 65504.0
"""Coordinate of points that are not finite or not known: the largest value of half precision."""


def encode(explanation: Explanation) -> dict[str, Any]:
    """Return what the page's scripts need, as values that JSON can hold.

    Points are half floats: x, y, z of every `stride`-th pixel of every `stride`-th row, in camera
    1's frame. Attention has one byte for each key, `255 * sqrt(probability)`, and two bytes for the
    number of the key.
    """
    found, m = explanation.measured, explanation.measurements
    truth = found.reference.kind == TRUTH
    views = [view_of(view, m.provenance.patch) for view in explanation.views.views]
    used = {step.sublayer for step in m.steps}
    content = {
        "views": views,
        "trunk": stack_words(m.steps[0].stack),
        "steps": [
            {"block": s.block, "kind": s.sublayer, "name": s.words, "site": s.site(2)}
            for s in m.steps
        ],
        "words": {kind: words for kind, words in SUBLAYER_WORDS.items() if kind in used},
        "curves": {f"view{view}": curves for view, curves in m.curves.items()},
        "against": {f"view{view}": kinds for view, kinds in m.against.items()},
        "final": _final(found, truth),
        "sites": _sites(found),
        "arrows": [_arrows(found, view) for view in m.finals],
        "cameras": {
            "focal": [
                focal.where(focal.isfinite(), view["width"]).tolist()
                for focal, view in zip(found.focal, views, strict=True)
            ],
            "final": [f.camera2_to_1 if f.pose_found else None for f in m.finals.values()],
            "steps": found.poses.tolist(),
            "truth": found.reference.poses[0].tolist() if truth else None,
        },
        "home": home_of(found.points[-1]),
        "attention": [
            {"from": view, "to": other, **_attention(kept)}
            for (view, other), kept in found.attention.items()
        ],
        "matches": [
            match.match.where(match.visible, -1)[0].tolist() for match in found.matches.values()
        ],
        "heads": [asdict(head) for head in m.heads],
        "relations": asdict(m.relations),
        "camera_path": None if m.camera_path is None else m.camera_path.to_json(),
        "influence": [_influence(found) for found in explanation.influence],
    }
    bare: dict[str, Any] = to_json(content)
    return bare


def view_of(view: View, patch: int) -> dict[str, Any]:
    """Return the image as the model sees it, as a JPEG of high quality, with its patch grid.

    Args:
        view: One view, a batch of one.
        patch: Side of a patch in pixels.
    """
    pixels = ((view.image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    picture = io.BytesIO()
    Image.fromarray(pixels.to(torch.uint8).cpu().numpy()).save(
        picture, "JPEG", quality=95, subsampling=0
    )
    height, width = view.size
    return {
        "image": f"data:image/jpeg;base64,{base64.b64encode(picture.getvalue()).decode()}",
        "height": height,
        "width": width,
        "grid": patch_grid(height, width, patch),
    }


def _final(found: Measured, truth: bool) -> dict[str, Any]:
    points, confidence = found.points[-1], found.confidence
    stride = _stride(max(p[..., 0].numel() for p in points), FINAL_POINTS)
    known = found.reference.points, found.reference.valid
    every = torch.cat([c.flatten() for c in confidence]).cpu().double().numpy()
    return {
        "stride": stride,
        "points": [half_floats(_strided(p, stride)) for p in points],
        "truth": [
            half_floats(_strided(_masked(p, valid), stride))
            for p, valid in zip(*known, strict=True)
        ]
        if truth
        else None,
        "confidence": [half_floats(_strided(c, stride)) for c in confidence],
        "percentiles": np.nanpercentile(every, np.arange(101)).round(4).tolist(),
    }


def _sites(found: Measured) -> dict[str, Any]:
    steps = found.points
    stride = _stride(sum(p[..., 0].numel() for every in steps for p in every), SITE_POINTS)
    return {
        "stride": stride,
        "points": [
            half_floats(torch.cat([_strided(p, stride) for p in view]))
            for view in zip(*steps, strict=True)
        ],
    }


def _arrows(measured: Measured, view: int) -> dict[str, Any]:
    m = measured.measurements
    patch = m.provenance.patch
    found = Arrows.of(m.steps, measured.points, measured.reference, patch, view)
    return {
        "means": half_floats(found.means),
        "lengths": found.lengths,
        "alignments": found.alignments,
    }


def home_of(points: Points) -> dict[str, Any]:
    """Return where the 3D view starts: the centre and radius of a box of most points and camera 1.

    Args:
        points: The pointmaps of all views, in camera 1's frame; the result has their unit.
    """
    every = torch.cat([p.reshape(-1, 3) for p in points])
    every = every[every.isfinite().all(dim=-1)].sort(dim=0).values
    camera1 = torch.zeros(3).to(every)
    low, high = camera1, camera1
    if len(every):
        low = every[int(0.05 * (len(every) - 1))].minimum(camera1)
        high = every[int(0.9 * (len(every) - 1))].maximum(camera1)
    radius = float((high - low).norm()) / 2
    return {"target": ((low + high) / 2).tolist(), "radius": radius or 1.0}


def _attention(kept: Strongest) -> dict[str, Any]:
    blocks, heads, queries, top = kept.probs.shape
    return {
        "blocks": blocks,
        "heads": heads - 1,
        "queries": queries,
        "top": top,
        "kept": float(kept.probs[:, :-1].sum(-1).mean()),
        "keys": base64_of(kept.keys.cpu().numpy().astype("<u2")),
        "probs": base64_of(
            (255 * kept.probs.sqrt()).round().clamp(0, 255).cpu().numpy().astype("u1")
        ),
    }


def _influence(found: Influence) -> dict[str, Any]:
    """Return the effects of all patches as signed bytes; 127 is the largest effect of any view."""
    most = max((float(effects.abs().max()) for effects in found.maps), default=0.0)
    levels = [effects / (most or 1.0) * 127 for effects in found.maps]
    return {
        "camera": found.camera,
        "of": found.of,
        "unit": found.unit,
        "more": found.more,
        "most": most,
        "shares": found.shares,
        "maps": [base64_of(each.round().cpu().numpy().astype("i1")) for each in levels],
    }


def _stride(points: int, most: int) -> int:
    """Return the smallest stride, in rows and columns, that leaves about `most` points or fewer."""
    stride = 1
    while points > most * stride**2:
        stride += 1
    return stride


def _strided(tensor: Shaped[Tensor, "b h w *c"], stride: int) -> Shaped[Tensor, "b h2 w2 *c"]:
    return tensor[:, ::stride, ::stride]


def _masked(
    points: Float[Tensor, "b h w 3"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, "b h w 3"]:
    return points.where(valid[..., None], torch.nan)


def half_floats(tensor: Float[Tensor, "*n"]) -> str:
    """Return numbers as half floats in base64; NaN and infinite values become ±`NOWHERE`."""
    values = tensor.detach().float().nan_to_num(NOWHERE, NOWHERE, -NOWHERE)
    return base64_of(values.clamp(-NOWHERE, NOWHERE).cpu().numpy().astype("<f2"))


def base64_of(array: Shaped[np.ndarray, "..."]) -> str:
    """Return the bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
