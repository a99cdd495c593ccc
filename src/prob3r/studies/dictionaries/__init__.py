"""Past the paper, dictionaries: do residual streams decompose into atoms that tell geometry?

Dictionaries (`prob3r.probes.dictionary`, trained by `prob3r dictionary train`) belong to a few
places of the trunk, in all views. Each is compared with coders of the same stream that have as many
active coefficients: the `first` principal directions; the `largest` coefficients of each token
among all principal directions (a stream of width d has d of them and no more); and as many random
directions as there are atoms (`random`). It is compared with the units of the stream itself, which
lose nothing: all `principal` directions, and its channels (`neurons`). And it is compared with a
dictionary that was trained in the same way on a model of the same shape with random weights
(`untrained`).

*What is lost*: the share of the variance of a pair's tokens, about the dictionary's mean, that a
coder does not explain; how many atoms are active at a token, and which share of all atoms is active
nowhere in the rooms below (dead). Each reconstruction is spliced back at all sites of its place, in
both views: errors of pose and shape, and `moved`, the mean distance between the pointmaps of view 2
with and without the splice, in the unit of the clean output's mean distance. The upper limit of the
loss is the `mean` token in every place.

*What is told*: every unit of every coder has a score for each of the tests of
`prob3r.measures.atoms`. The best unit of a coder, over all places, is chosen by its mean score over
`CHOOSING` rooms of the validation split, with its sign; the measured pairs are others. So a coder
with more units has no advantage by choice alone. For each coder, the units are also counted whose
mean score in the rooms of choice is above the highest score of any of its units against the control
there. Units whose score is known in under half of the rooms of choice do not count. A principal
direction or a channel is two units, one for each sign.

Rules. Effects are of pairs; the two of *what is lost* are medians with 95 % intervals, at the place
where they favour atoms the least; those of *what is told* are means with intervals of
1 - 0.05 / 16, for sixteen tests. The seven tests of strongest patches were added after a look at
eight pairs, at which atoms told less than channels in most of the other nine.

- *Atoms explain more than as many principal coefficients*: the share unexplained by atoms less that
  by `first` or `largest`, whichever is the lower. Supported if its interval lies below zero at
  every place, not supported if it does at none, else mixed.
- *Spliced back, atoms harm the pose less than as many principal coefficients*: the same for the
  rotation error of the spliced output, against the better of the two.
- *An atom tells T*, for each test T: supported if the score of the best atom less its own control,
  less the best unit of the same streams (`principal`, `random` or `neurons`), and less the best
  atom of the untrained model all have intervals above zero; not supported if the first of these
  three differences does not lie above zero, or one of the other two lies below zero; else mixed.
  The effect is the score less that of the best other unit of the same streams: among the chosen
  units, the one with the highest score on the pairs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.measures.atoms import TESTS, Scores, mean_scores, score, truths_of
from prob3r.models import Model, Prediction, fingerprint
from prob3r.models.sites import Site
from prob3r.probes.coders import Coder
from prob3r.probes.dictionary import (
    FIRST,
    LARGEST,
    NEURONS,
    PRINCIPAL,
    Dictionary,
    dictionaries_in,
    file_name,
    folder_of,
    sites_of,
)
from prob3r.rooms import Rooms
from prob3r.runs.edits import Recode
from prob3r.runs.replay import Replay
from prob3r.runs.trace import trace
from prob3r.scenes.shuffled import other_scenes
from prob3r.scenes.source import Pairs, batches
from prob3r.scenes.views import Pair, Views
from prob3r.studies.dictionaries.figures import draw_lost, draw_told
from prob3r.studies.dictionaries.findings import lost_findings, told_findings
from prob3r.studies.dictionaries.rows import (
    ATOMS,
    MEAN,
    METRICS,
    MOVED,
    UNEXPLAINED,
    UNTRAINED,
)
from prob3r.studies.framework.study import Study
from prob3r.studies.framework.tested import LackingError, ModelUnderTest
from prob3r.studies.framework.verdict import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHOOSING = 128  # rooms


class ChosenUnit(NamedTuple):
    """The best unit of a coder for one test, in the rooms of choice.

    Attributes:
        place: The pattern of sites.
        unit: The number of the unit.
        sign: The sign of its mean score, 1 or -1.
        beyond: Number of units of the coder, over all places, that are above every control.
        units: Number of units of the coder, over all places.
    """

    place: str
    unit: int
    sign: int
    beyond: int
    units: int


class Dictionaries(Study):
    """Past the paper: how well atoms explain residual streams, and what geometry they tell."""

    name = "dictionaries"
    title = "What atoms of the stream tell"
    prepared_on = CHOOSING
    place = 30
    output = True
    most = 256

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.coders: dict[str, dict[str, Coder]] = {}
        self.untrained: dict[str, Dictionary] = {}
        self.chosen: dict[tuple[str, str], ChosenUnit] = {}
        self.dead: dict[tuple[str, str], float] = {}

    def check(self, tested: ModelUnderTest) -> None:
        """Raise LackingError if there are no dictionaries of the model."""
        super().check(tested)
        if not list(self._folder(tested).glob("dictionary-*.safetensors")):
            raise LackingError(
                f"The study '{self.name}' needs dictionaries of {tested.name}; train them with "
                "`prob3r dictionary train`."
            )

    def rests_on(self, tested: ModelUnderTest) -> dict[str, object]:
        """Return the fingerprint of each dictionary, by the name of its file."""
        found = dictionaries_in(self._folder(tested))
        return {"dictionaries": {file_name(each.shape): each.fingerprint for each in found}}

    def _folder(self, tested: ModelUnderTest) -> Path:
        return self.folder or folder_of(fingerprint(tested.model))

    def prepare(self, tested: ModelUnderTest, pairs: Pairs) -> None:
        """Load the dictionaries, and choose the best unit of every coder for every test."""
        first = next(batches(pairs, 1, 1), None)
        if first is None:
            raise Prob3rError("There are no pairs to measure; give at least one.")
        device = next(tested.model.parameters()).device
        found = [d.to(device) for d in dictionaries_in(self._folder(tested))]
        for each in found:
            if each.shape.random_seed is None:
                each.check(tested.model)
                self.coders[each.shape.sites] = {ATOMS: each, **each.controls()}
            else:
                self.untrained[each.shape.sites] = each
        rooms = Rooms("validation", first.view2.size, device=device, compile=False)
        totals: dict[tuple[str, str], list[Tensor]] = {}
        active: dict[tuple[str, str], Tensor] = {}
        for batch in batches(rooms, CHOOSING, self.batch):
            for (source, place), codes in self._codes(tested, batch).items():
                ever = (torch.cat(codes, 1).flatten(0, 1) != 0).any(0)
                active[source, place] = ever | active.get((source, place), ever)
                scores = _scores(codes, batch, tested.model)
                totals.setdefault((source, place), []).append(torch.stack(scores))
        self.dead = {key: 1 - float(ever.float().mean()) for key, ever in active.items()}
        means = {
            key: torch.stack([mean_scores(scores) for scores in torch.cat(parts, 1)])
            for key, parts in totals.items()
        }
        for source in dict.fromkeys(source for source, _ in means):
            places = [place for name, place in means if name == source]
            for number, test in enumerate(TESTS):
                both = [means[source, place][:, number] for place in places]  # 2 m each
                if not any(scores.isnan().all() for scores in both):
                    self.chosen[source, test] = _choose(places, both)

    def _codes(
        self, tested: ModelUnderTest, views: Views
    ) -> dict[tuple[str, str], list[Float[Tensor, "b n m"]]]:
        """Return the activations of every coder's units, view by view, at every place."""
        found = {}
        for model, coders in self._by_model(tested):
            sites = {place: sites_of(model, place, views.count) for place in coders}
            run = trace(model, views, [s for names in sites.values() for s in names], output=False)
            for place, names in sites.items():
                streams = [run[site].patches.float() for site in _every_view(names, views.count)]
                for source, coder in coders[place].items():
                    if source in (FIRST, LARGEST):  # whose units are principal directions
                        continue
                    codes = [coder.encode(stream) for stream in streams]
                    if source in (PRINCIPAL, NEURONS):
                        codes = [torch.cat((c, -c), -1) for c in codes]
                    found[source, place] = codes
        return found

    def _by_model(self, tested: ModelUnderTest) -> list[tuple[Model, dict[str, dict[str, Coder]]]]:
        """Return each backbone and the coders of its places."""
        found = [(tested.model, self.coders)]
        if self.untrained:
            backbone = next(iter(self.untrained.values())).backbone_of(tested.model)
            alone = {place: {UNTRAINED: each} for place, each in self.untrained.items()}
            found.append((backbone, alone))  # type: ignore[arg-type]
        return found

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        """Return the losses of every coder at every place, and the scores of the chosen units."""
        lost = [
            rows
            for model, coders in self._by_model(tested)
            for rows in _lost(model, coders, pair, self.dead)
        ]
        return pd.concat([*lost, *self._told(tested, pair)], ignore_index=True)

    def _told(self, tested: ModelUnderTest, pair: Pair) -> list[pd.DataFrame]:
        codes = self._codes(tested, pair)
        truths, others = truths_of(pair, tested.model.config.patch), other_scenes(pair)
        parts = []
        for (source, test), best in self.chosen.items():
            one = [c[..., best.unit : best.unit + 1] for c in codes[source, best.place]]
            found = score(one, truths, others)
            number = TESTS.index(test)
            parts.append(
                pd.DataFrame(
                    {
                        "pair": range(len(pair)),
                        "metric": test,
                        "source": source,
                        "site": best.place,
                        "unit": best.unit,
                        "value": (best.sign * found.true[:, number, 0]).cpu().numpy(),
                        "control": (best.sign * found.control[:, number, 0]).cpu().numpy(),
                        "beyond": best.beyond,
                        "units": best.units,
                    }
                )
            )
        return parts

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the answers by the rules above."""
        return [*lost_findings(table), *told_findings(table)]

    def figures(self, table: pd.DataFrame) -> "dict[str, Figure]":
        """Return figures of the losses of each coder, and of the scores of the best units."""
        return {"lost": draw_lost(table), "told": draw_told(table)}


def _every_view(names: Sequence[str], views: int) -> list[str]:
    """Return the sites of a place, one for each view, in the order of the views."""
    by_view = {Site.parse(name).view: name for name in names}
    if len(by_view) < views:
        raise Prob3rError(
            f"A dictionary of {', '.join(names)} does not read all {views} views, which the tests "
            "across views need; train one of a pattern such as dec*.3.mlp."
        )
    return [by_view[view] for view in range(1, views + 1)]


def _scores(codes: Sequence[Tensor], views: Views, model: Model) -> Scores:
    return score(codes, truths_of(views, model.config.patch), other_scenes(views))


def _choose(places: Sequence[str], both: Sequence[Float[Tensor, "2 m"]]) -> ChosenUnit:
    """Return the unit of the highest mean score, and the number of units above every control."""
    true = torch.cat([scores[0] for scores in both])
    highest = torch.cat([scores[1] for scores in both]).abs().nan_to_num(0).max()
    sizes = [scores.shape[1] for scores in both]
    best = int(true.abs().nan_to_num(0).argmax())
    place = 0
    while best - sum(sizes[:place]) >= sizes[place]:
        place += 1
    return ChosenUnit(
        places[place],
        best - sum(sizes[:place]),
        -1 if true[best] < 0 else 1,
        int((true.abs() > highest).sum()),
        sum(sizes),
    )


def _lost(
    model: Model,
    coders: dict[str, dict[str, Coder]],
    pair: Pair,
    dead: dict[tuple[str, str], float],
) -> list[pd.DataFrame]:
    """Return the unexplained share of every coder, and the effect of its splice on the output."""
    sites = {place: sites_of(model, place) for place in coders}
    replay = Replay(model, pair, [s for names in sites.values() for s in names])
    clean = replay.clean.output
    assert clean is not None
    parts = []
    for place, by_name in coders.items():
        streams = torch.cat([replay.clean[site].patches.float() for site in sites[place]], 1)
        atoms = next(c for c in by_name.values() if isinstance(c, Dictionary))
        mean, spread = atoms.mean, (streams - atoms.mean).square().sum((1, 2))
        for source, coder in by_name.items():
            if source in (PRINCIPAL, NEURONS):  # which lose nothing
                continue
            codes = coder.encode(streams)
            left = (coder.decode(codes) - streams).square().sum((1, 2)) / spread
            used = (codes != 0).sum(-1).float().mean(-1)
            edit = Recode(place, coder.reconstruct, patches=atoms.tokens)
            values = {UNEXPLAINED: left, "active": used}
            values |= _after(replay.run([edit]).output, clean, pair)
            parts.append(_frame(values, source, place, dead.get((source, place))))
        if ATOMS in by_name:
            edit = Recode(place, mean.expand_as, patches=atoms.tokens)
            values = _after(replay.run([edit]).output, clean, pair)
            parts.append(_frame(values, MEAN, place))
    if any(ATOMS in by_name for by_name in coders.values()):
        parts.append(_frame(_after(clean, clean, pair), "clean", ""))
    return parts


def _after(output: Prediction | None, clean: Prediction, pair: Pair) -> dict[str, Tensor]:
    """Return the errors of an output, and its distance from the clean output."""
    assert output is not None
    errors: dict[str, Any] = pair.errors_of(output.points)._asdict()
    unit = torch.cat([p.norm(dim=-1).flatten(1) for p in clean.points], 1).mean(1)
    distance = (output.points[1] - clean.points[1]).norm(dim=-1).mean((1, 2))
    return {name: errors[name] for name in METRICS} | {MOVED: distance / unit}


def _frame(
    values: dict[str, Tensor], source: str, place: str, dead: float | None = None
) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"pair": range(len(v)), "metric": name, "value": v.cpu().numpy()})
        for name, v in values.items()
    ]
    return pd.concat(parts).assign(source=source, site=place, unit=-1, dead=dead)
