"""The chance that a pair's outcome is wrong, from the signals of one run, and what it is worth.

A calibration is a logistic regression of a model's failures on its signals over pairs with truth.
How well it ranks and how far its probabilities can be believed is measured by cross-fitting: each
pair is judged by a fit that never saw it. It belongs to one model with one probe bank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import Interval
from prob3r.models import Model, fingerprint, shipped_file
from prob3r.models.registry import digest
from prob3r.probes import SiteReader, check_backbone
from prob3r.reliability.check import Check, check_pairs, signals_of
from prob3r.reliability.files import (
    bins_from_json,
    fit_from_json,
    interval_from_json,
    read_calibration,
    write_calibration,
)
from prob3r.reliability.judgement import Judgement, Reading
from prob3r.reliability.matchers import MATCHERS
from prob3r.reliability.prediction import (
    FEWEST,
    Bin,
    Logistic,
    auroc_interval,
    bin_of,
    calibration_bins,
    calibration_error,
    cross_fitted,
    fit_logistic,
    measurable,
)
from prob3r.reliability.signals import (
    CHECK_GROUPS,
    EVERY_SIGNAL,
    GROUPS,
    SIGNALS,
    WITH_CHECK,
    features,
    read_signals,
)
from prob3r.rooms.larger import larger_rooms, with_fine
from prob3r.runs.encoded import reusing_views
from prob3r.runs.trace import Trace
from prob3r.scenes.sampling import sample
from prob3r.scenes.source import Pairs, batches, describe
from prob3r.scenes.views import Pair

WRONG = 15.0
"""Degrees of rotation error above which an outcome is wrong."""

VERSION = 2
"""Of the files. Those of version 1 name no version, and have no signals of the check."""

_FILE = "reliability.json"


@dataclass(frozen=True)
class Calibration:
    """A fit of a model's failures on its signals, and how good it is on held-out pairs.

    Attributes:
        model: Name of the model.
        backbone: Fingerprint of its weights.
        bank: Fingerprint of its probes.
        data: Name of the pairs.
        pairs: How many there were.
        failed: How many of them had a rotation error above `degrees`.
        degrees: Of rotation error.
        fit: On all pairs, of the columns of `signals.features`.
        auroc: Of the cross-fitted probabilities, with its 95 % bootstrap interval over pairs.
        confidence_auroc: The same for a fit on the model's own confidence alone.
        bins: Of the cross-fitted probabilities.
        sample: How the pairs were chosen, in words; empty in files that do not say.
        matcher: Of the independent check, whose signals the fit reads too; None if it does not.
    """

    model: str
    backbone: str
    bank: str
    data: str
    pairs: int
    failed: int
    degrees: float
    fit: Logistic
    auroc: Interval
    confidence_auroc: Interval
    bins: list[Bin]
    sample: str = ""
    matcher: str | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals that the fit reads, column by column."""
        return tuple(SIGNALS if self.matcher is None else EVERY_SIGNAL)

    @classmethod
    def of(
        cls,
        model: Model,
        bank: SiteReader,
        pairs: Pairs,
        count: int,
        *,
        model_name: str,
        data: str,
        matcher: str | None = None,
        batch: int = 16,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Calibration":
        """Return a calibration on a sample of the pairs.

        Args:
            model: The model.
            bank: Its probes.
            pairs: With the full truth, and other than those that the result is to be tested on.
            count: How many of them.
            model_name: What to call the model.
            data: What to call the pairs.
            matcher: Of an independent check, whose signals are to be read too. Small rooms are
                rendered with more pixels for it.
            batch: Pairs at a time.
            report: Called with the number of pairs done and the number to do.

        Raises:
            Prob3rError: The probes are of another model, a pair has no truth, too few of the pairs
                are wrong, or too few right, or the matcher is not installed.
        """
        backbone = check_backbone(bank, model)
        device = next(model.parameters()).device
        larger = None if matcher is None else larger_rooms(pairs)
        names = SIGNALS if matcher is None else EVERY_SIGNAL
        pairs = sample(pairs, count)
        rows, errors, done = [], [], 0
        with reusing_views(pairs, model):
            for pair in batches(pairs, len(pairs), batch):
                pair = pair.to(device)
                found, output = read_signals(model, pair, bank)
                if matcher is not None:
                    checks = check_pairs(with_fine(pair, larger), output, matcher)
                    found |= {name: v.to(device) for name, v in signals_of(checks).items()}
                rows.append(features(found, names).cpu())
                errors.append(pair.errors_of(output.points).rotation_error.cpu())
                done += len(pair)
                report(done, len(pairs))
        known = ~torch.cat(errors).isnan()
        x, failed = torch.cat(rows)[known], torch.cat(errors)[known] > WRONG
        if not measurable(failed):
            raise Prob3rError(
                f"{int(failed.sum())} of {len(failed)} pairs of {data} have a rotation error above "
                f"{WRONG:g} degrees; a calibration needs at least {FEWEST} that have and {FEWEST} "
                "that have not, so give more pairs, or harder or easier ones."
            )
        stated = by_group(x, failed)
        every = stated["all" if matcher is None else WITH_CHECK]
        return cls(
            model=model_name,
            backbone=backbone,
            bank=bank_fingerprint(bank),
            data=data,
            pairs=len(failed),
            failed=int(failed.sum()),
            degrees=WRONG,
            fit=fit_logistic(x, failed),
            auroc=auroc_interval(every, failed),
            confidence_auroc=auroc_interval(stated["confidence"], failed),
            bins=calibration_bins(every, failed),
            sample=describe(pairs),
            matcher=matcher,
        )

    def check(self, model: Model, bank: SiteReader) -> None:
        """Raise Prob3rError if this is not the calibration of this model with these probes."""
        for what, mine, given in (
            ("model", self.backbone, fingerprint(model)),
            ("probe bank", self.bank, bank_fingerprint(bank)),
        ):
            if mine != given:
                raise Prob3rError(
                    f"This calibration was made for the {what} {mine}, and this one is {given}; "
                    "make one for it with `prob3r train reliability`."
                )

    def judge(
        self,
        model: Model,
        pair: Pair,
        bank: SiteReader,
        run: Trace | None = None,
        check: Check | None = None,
    ) -> Judgement:
        """Return the chance that a pair's rotation is wrong.

        Args:
            model: The model of this calibration.
            pair: A batch of one; its truth, if it has any, is not used.
            bank: The probes of this calibration.
            run: Of this pair, with `signal_sites` recorded; the model runs if it is not given.
            check: Of this pair, by this calibration's matcher and with cameras read off the
                output; made if it is not given, and not used if this calibration has no matcher.

        Raises:
            Prob3rError: The model or the probes are others, or the matcher is not installed.
        """
        self.check(model, bank)
        found, output = read_signals(model, pair, bank, run)
        if self.matcher is not None:
            if check is None or check.matcher != self.matcher or check.intrinsics_known:
                (check,) = check_pairs([pair], output, self.matcher)
            found |= {name: v.to(output.points[0]) for name, v in signals_of([check]).items()}
        row = features(found, self.signals).cpu()
        probability = self.fit.probability(row)
        return Judgement(
            probability=float(probability),
            degrees=self.degrees,
            readings=self._readings(found, row),
            held_out=self.bins[int(bin_of(probability, len(self.bins)))],
            data=self.data,
            pairs=self.pairs,
            failed=self.failed,
            auroc=self.auroc,
            confidence_auroc=self.confidence_auroc,
            calibration_error=calibration_error(self.bins),
        )

    def save(self, path: Path) -> None:
        """Write the calibration as JSON.

        Raises:
            Prob3rError: The file cannot be written.
        """
        write_calibration(self, self.signals, VERSION, path)

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """Read a calibration.

        Raises:
            Prob3rError: There is no such file, or it holds no calibration of these signals.
        """
        return read_calibration(path, cls._parsed, "prob3r train reliability")

    @classmethod
    def shipped(cls, name: str, model: Model, bank: SiteReader) -> "Calibration | None":
        """Return what is shipped for a model of this name, if it fits it and its probes."""
        path = shipped_file(Path(name).name, _FILE)
        if path is None:
            return None
        found = cls.read(path)
        fits = (found.backbone, found.bank) == (fingerprint(model), bank_fingerprint(bank))
        return found if fits else None

    @classmethod
    def _parsed(cls, content: dict[str, Any]) -> "Calibration":
        matcher = content.get("matcher")
        if matcher not in (None, *MATCHERS) or content.get("version", 1) > VERSION:
            raise KeyError("matcher")
        return cls(
            **{name: str(content[name]) for name in ("model", "backbone", "bank", "data")},
            pairs=int(content["pairs"]),
            failed=int(content["failed"]),
            degrees=float(content["degrees"]),
            fit=fit_from_json(content, list(SIGNALS if matcher is None else EVERY_SIGNAL)),
            auroc=interval_from_json(content["auroc"]),
            confidence_auroc=interval_from_json(content["confidence_auroc"]),
            bins=bins_from_json(content["bins"]),
            sample=str(content.get("sample", "")),
            matcher=matcher,
        )

    def _readings(
        self, found: Mapping[str, Float[Tensor, "1"]], row: Float[Tensor, "1 s"]
    ) -> list[Reading]:
        parts = self.fit.parts(row)[0]
        beyond = self.fit.beyond(row)[0]
        readings = []
        for i, name in enumerate(self.signals):
            signal = EVERY_SIGNAL[name]
            usual = signal.doubt * self.fit.mean[i]
            usual = usual.exp() if signal.logarithmic else usual
            value, part = float(found[name]), float(parts[i])
            readings.append(Reading(name, value, float(usual), part, bool(beyond[i])))
        return readings


def columns_of(group: Sequence[str]) -> list[int]:
    """Return where signals stand among the columns of `signals.features` of all signals."""
    return [list(EVERY_SIGNAL).index(name) for name in group]


def by_group(
    rows: Float[Tensor, "n s"], failed: Bool[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """Return each group's cross-fitted probabilities of a wrong outcome.

    Args:
        rows: The columns of the signals of a run, or of every signal.
        failed: The outcomes.
    """
    groups = GROUPS if rows.shape[1] == len(SIGNALS) else {**GROUPS, **CHECK_GROUPS}
    return {
        group: cross_fitted(rows[:, columns_of(names)], failed) for group, names in groups.items()
    }


def bank_fingerprint(bank: SiteReader) -> str:
    """Return 16 hexadecimal digits that tell a bank from any other by its header and weights."""
    return digest(bank.header(), bank.state_dict())
