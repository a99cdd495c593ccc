"""The gallery: the atoms of a dictionary in one self-contained HTML page.

For each atom the page shows the patches where its activation is largest, in all photographs of
their scenes. It also shows the pointmaps of the scene with the largest activation in three states:
unchanged, with the atom switched off, and with the atom multiplied. The pointmaps are computed in
advance, because a page cannot run a model.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import focal_from_pointmap
from prob3r.io.files import to_json, writing_to
from prob3r.measures.atoms import TESTS, Scores, mean_scores, score, truths_of
from prob3r.models import Model
from prob3r.models.protocol import needs_pointmaps
from prob3r.models.sites import Site
from prob3r.probes.dictionary import Dictionary, sites_of
from prob3r.report.encode import base64_of, half_floats, home_of, view_of
from prob3r.report.page import asset, inline
from prob3r.runs.replay import Replay
from prob3r.runs.trace import trace
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.source import Scenes, batches
from prob3r.scenes.views import Views

SCRIPTS = ("data.js", "linear.js", "shaders.js", "viewer.js", "scene.js", "gallery.js")
"""In the order in which they need each other."""

UP = 4.0
"""The factor of the activation in the state in which an atom is multiplied."""

EXAMPLES = 6  # scenes shown for an atom
POINTS = 2500  # points of one view in one state
BATCH = 16
TOLD = 0.2  # the smallest score that is mentioned

WORDS = {
    "floor": "floor",
    "edge": "edges",
    "covisible": "seen by the other view",
    "depth": "depth",
    "normal x": "faces right",
    "normal y": "faces down",
    "normal z": "faces away",
    "instance": "same object in both views",
    "match": "matching patches",
}


@dataclass(frozen=True)
class Seen:
    """The activations of a dictionary's atoms on some scenes.

    Attributes:
        scenes: The scenes, each a batch of one.
        codes: For each scene and view the activations `(n, m)`, in half precision.
        scores: The mean score of every atom on every test, NaN where it is not known.
        controls: The mean score of every atom against the controls.
    """

    scenes: list[Views]
    codes: list[list[Float[Tensor, "n m"]]]
    scores: Float[Tensor, "tests m"]
    controls: Float[Tensor, "tests m"]

    @property
    def energy(self) -> Float[Tensor, " m"]:
        """The sum of squared activations of every atom."""
        return torch.stack([c.float().square().sum(0) for each in self.codes for c in each]).sum(0)

    @property
    def strongest(self) -> Float[Tensor, "s m"]:
        """The largest activation of every atom in every scene."""
        return torch.stack([torch.cat(each).amax(0).float() for each in self.codes])


def write_gallery(
    model: Model,
    dictionary: Dictionary,
    scenes: Scenes[Views],
    path: Path,
    *,
    model_name: str,
    data: str,
    atoms: int = 24,
    report: Callable[[str, float], None] = lambda what, share: None,
) -> None:
    """Write the gallery of a dictionary as a self-contained HTML page.

    Args:
        model: The model.
        dictionary: A dictionary of the model.
        scenes: Where to look for the strongest patches.
        path: The file to write.
        model_name: The name of the model on the page.
        data: The name of the scenes on the page.
        atoms: Number of atoms to show.
        report: Called with the name of the next step, and the share of the work that is done.

    Raises:
        Prob3rError: The dictionary is of another model, the model predicts no pointmaps, there are
            no scenes, or the file cannot be written.
    """
    needs_pointmaps(model, "A gallery")
    dictionary.check(model)
    found = look(model, dictionary, scenes, lambda share: report("Looking at scenes", 0.6 * share))
    chosen = choose(found, atoms)
    shown = []
    for number, atom in enumerate(chosen):
        shown.append(_atom(model, dictionary, found, atom))
        report("Switching atoms off and up", 0.6 + 0.4 * (number + 1) / len(chosen))
    used = sorted({example["scene"] for each in shown for example in each["examples"]})
    count = found.scenes[0].count
    content = {
        "views": [{} for _ in range(count)],
        "patch": model.config.patch,
        "up": UP,
        "scenes": {
            str(i): [view_of(view, model.config.patch) for view in found.scenes[i].views]
            for i in used
        },
        "atoms": shown,
    }
    shape = dictionary.shape
    alive = float((found.strongest.amax(0) > 0).float().mean())
    parts = {
        "title": escape(f"Atoms of {model_name} at {shape.sites}"),
        "style": asset("style.css") + asset("gallery.css"),
        "script": "\n".join(asset(name) for name in SCRIPTS),
        "data": inline(json.dumps(to_json(content), separators=(",", ":"), allow_nan=False)),
        "model": escape(model_name),
        "sites": escape(shape.sites),
        "atoms": str(shape.atoms),
        "active": str(shape.active),
        "shown": str(len(chosen)),
        "trained": escape(shape.data or "unknown scenes"),
        "scenes": f"{len(found.scenes)} scenes of {escape(data)}",
        "alive": f"{100 * alive:.0f} %",
        "up": f"{UP:g}",
        "views": "both views" if count == 2 else "all views",
        "fingerprint": escape(shape.backbone),
    }
    html = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset("gallery.html"))
    with writing_to(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


@torch.no_grad()
def look(
    model: Model,
    dictionary: Dictionary,
    scenes: Scenes[Views],
    report: Callable[[float], None] = lambda share: None,
) -> Seen:
    """Return the activations of all atoms on some scenes, and their scores if the truth is known.

    Raises:
        Prob3rError: There are no scenes.
    """
    found, codes = list[Views](), list[list[Tensor]]()
    totals: list[Scores] = []
    device = next(model.parameters()).device
    for batch in batches(scenes, len(scenes), BATCH):
        batch = batch.to(device)
        sites = sites_of(model, dictionary.shape.sites, batch.count)
        run = trace(model, batch, sites, output=False)
        views = {Site.parse(site).view: dictionary.encode(run[site].patches) for site in sites}
        if len(views) == batch.count and batch.has_truth:
            each = [views[view] for view in sorted(views)]
            truths = truths_of(batch, model.config.patch)
            totals.append(score(each, truths, other_scenes(batch)))
        for row in range(len(batch)):
            found.append(batch[[row]])
            codes.append(
                [
                    views[v][row].half().cpu()
                    if v in views
                    else torch.zeros(len(next(iter(views.values()))[row]), dictionary.units).half()
                    for v in range(1, batch.count + 1)
                ]
            )
        report(len(found) / len(scenes))
    if not found:
        raise Prob3rError("There are no scenes to look at; give at least one.")
    nothing = torch.full((len(TESTS), dictionary.units), torch.nan)
    means = [mean_scores(torch.cat(parts)).cpu() for parts in zip(*totals, strict=True)]
    return Seen(found, codes, *(means or [nothing, nothing]))


def choose(found: Seen, count: int) -> list[int]:
    """Return the numbers of the atoms to show: the best on each test, then those of most energy."""
    energy = found.energy
    gains = (found.scores.abs() - found.controls.abs().nan_to_num(0)).nan_to_num(0)
    best = [int(row.argmax()) for row in gains if row.max() > 0]
    rest = energy.argsort(descending=True).tolist()
    order = dict.fromkeys([*best, *rest])
    return [atom for atom in order if energy[atom] > 0][:count]


@torch.no_grad()
def _atom(model: Model, dictionary: Dictionary, found: Seen, atom: int) -> dict[str, Any]:
    """Return one atom in the form that the page's script reads."""
    order = found.strongest[:, atom].argsort(descending=True).tolist()
    scenes = [i for i in order[:EXAMPLES] if found.strongest[i, atom] > 0]
    largest = float(found.strongest[:, atom].max())
    views = zip(*found.codes, strict=True)
    shares = [torch.cat([c[:, atom] > 0 for c in view]).float().mean().item() for view in views]
    replay = Replay(model, found.scenes[scenes[0]])
    states = [
        replay.run([dictionary.scale({atom: 0.0})]).output,
        replay.clean.output,
        replay.run([dictionary.scale({atom: UP})]).output,
    ]
    said = [output.points for output in states if output is not None]
    focal = focal_from_pointmap(said[1][0])
    unit = torch.cat([p.norm(dim=-1).flatten() for p in said[1]]).mean()
    points = [tuple(p / unit for p in state) for state in said]
    clean = points[1]
    moved = [
        [float((p - c).norm(dim=-1).mean()) for p, c in zip(state, clean, strict=True)]
        for state in points
    ]
    stride = 1
    while clean[0][0, ..., 0].numel() > POINTS * stride**2:
        stride += 1
    return {
        "number": atom,
        "told": _told(found, atom),
        "shares": shares,
        "largest": largest,
        "stride": stride,
        "focal": float(focal[0]) if focal.isfinite().all() else clean[0].shape[2],
        "moved": moved,
        "home": home_of(clean),
        "points": [
            half_floats(torch.cat([state[v][0, ::stride, ::stride] for state in points]))
            for v in range(len(clean))
        ],
        "examples": [
            {
                "scene": i,
                "heat": [
                    base64_of(
                        (255 * codes[:, atom].float() / largest).round().to(torch.uint8).numpy()
                    )
                    for codes in found.codes[i]
                ],
            }
            for i in scenes
        ],
    }


def _told(found: Seen, atom: int) -> list[dict[str, Any]]:
    """Return the tests with the largest scores of an atom, at most four, with score and control."""
    rows: list[tuple[float, dict[str, Any]]] = []
    for name in TESTS:
        value, control = (t[TESTS.index(name), atom] for t in (found.scores, found.controls))
        if value.abs() > TOLD and value.abs() > control.abs().nan_to_num(0):
            within = name.removeprefix("strongest ")
            row = {
                "word": WORDS[within],
                "where": "" if name == within else "where it is strongest",
                "score": float(value),
                "control": float(control),
            }
            rows.append((-abs(float(value)), row))
    return [row for _, row in sorted(rows, key=lambda row: row[0])[:4]]
