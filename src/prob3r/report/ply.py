"""PLY: the final pointmaps of all views as one coloured point cloud for other programs."""

from pathlib import Path

import numpy as np
import torch

from prob3r.io.files import writing_to
from prob3r.report.explanation import Explanation

_VERTEX = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((colour, "u1") for colour in ("red", "green", "blue")),
        ("confidence", "<f4"),
        ("view", "u1"),
    ]
)
_TYPES = {"<f4": "float", "|u1": "uchar"}


def write_ply(explanation: Explanation, path: Path) -> None:
    """Write the output's pointmaps of all views as a binary PLY file.

    Each vertex has a position in camera 1's frame (x right, y down, z forward), a colour, the
    model's confidence, and the number of its view. The mean distance of the points of all views to
    camera 1 is 1. Points that are not finite are left out.

    Raises:
        Prob3rError: The file cannot be written.
    """
    clouds = []
    measured = explanation.measured
    views = explanation.views.views
    final = zip(views, measured.points[-1], measured.confidence, strict=True)
    for number, (view, points, confidence) in enumerate(final, 1):
        seen = points[0].isfinite().all(dim=-1).cpu()
        colours = ((view.image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
        cloud = np.empty(int(seen.sum()), _VERTEX)
        for i, axis in enumerate("xyz"):
            cloud[axis] = points[0, ..., i].cpu()[seen].numpy()
        for i, colour in enumerate(("red", "green", "blue")):
            cloud[colour] = colours[..., i].to(torch.uint8).cpu()[seen].numpy()
        cloud["confidence"] = confidence[0].cpu()[seen].numpy()
        cloud["view"] = number
        clouds.append(cloud)
    vertices = np.concatenate(clouds)
    properties = [
        f"property {_TYPES[vertices.dtype[name].str]} {name}" for name in _VERTEX.names or ()
    ]
    provenance = explanation.measurements.provenance
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"comment {' '.join(f'{provenance.pair} by {provenance.model}'.split())}",
            "comment camera 1's frame: x right, y down, z forward; mean distance 1",
            f"element vertex {len(vertices)}",
            *properties,
            "end_header\n",
        ]
    )
    with writing_to(path) as temporary:
        temporary.write_bytes(header.encode("ascii", "replace") + vertices.tobytes())
