"""The probability that a pair's output is wrong, from the signals of one run.

A calibration is a logistic regression of a model's failures on its signals, fitted on pairs with
ground truth. Its ranking (AUROC) and its calibration error are measured by cross-fitting: the
probability of each pair comes from a fit on other pairs. A calibration belongs to one model with
one probe bank.
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
"""Rotation error in degrees above which an output counts as wrong."""

VERSION = 2
"""Version of the files. Files of version 1 state no version and have no signals of the check."""

_FILE = "reliability.json"


@dataclass(frozen=True)
class Calibration:
    """A logistic regression of failures on signals, and its quality on held-out pairs.

    Attributes:
        model: Name of the model.
        backbone: Fingerprint of the model's weights.
        bank: Fingerprint of the probe bank.
        data: Name of the pairs.
        pairs: Number of pairs.
        failed: Number of pairs with a rotation error above `degrees`.
        degrees: Rotation error above which a pair counts as failed, in degrees.
        fit: The logistic regression on all pairs; its columns are those of `signals.features`.
        auroc: AUROC of the cross-fitted probabilities, with its 95 % bootstrap interval over pairs.
        confidence_auroc: The same for a fit on the model's own confidence only.
        bins: Reliability diagram of the cross-fitted probabilities.
        sample: How the pairs were chosen, in words; empty in files that do not state it.
        matcher: Name of the matcher of the independent check, if the fit has the check's signals,
            too; otherwise None.
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
        """Names of the signals of the fit, column by column."""
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
            bank: The model's probe bank.
            pairs: Pairs with ground truth. They must not be the pairs of a later test.
            count: Size of the sample.
            model_name: Name of the model, for the file.
            data: Name of the pairs, for the file.
            matcher: Name of the matcher of the independent check, to use the check's signals, too.
                Small rooms are rendered with more pixels for it.
            batch: Pairs in a batch.
            report: Called with the number of pairs done and the number to do.

        Raises:
            Prob3rError: The probes belong to another model, a pair has no ground truth, there are
                too few wrong or too few right outputs, or the matcher is not installed.
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
        """Raise Prob3rError if this calibration is not for this model and these probes."""
        for what, mine, given in (
            ("model", self.backbone, fingerprint(model)),
            ("probe bank", self.bank, bank_fingerprint(bank)),
        ):
            if mine != given:
                raise Prob3rError(
                    f"This calibration was made for the {what} {mine}, but this one is {given}; "
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
        """Return the probability that the rotation of a pair's output is wrong.

        Args:
            model: The model of this calibration.
            pair: A batch of one pair. Its ground truth is not used.
            bank: The probes of this calibration.
            run: A run over this pair that recorded `signal_sites`. Without it, the model runs here.
            check: The check of this pair, with this calibration's matcher and with cameras
                estimated from the output. Any other check, or none, is replaced by a new one. It is
                not used if this calibration has no matcher.

        Raises:
            Prob3rError: The calibration is not for this model and these probes, or the matcher is
                not installed.
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
            Prob3rError: The file does not exist or holds no calibration with these signals.
        """
        return read_calibration(path, cls._parsed, "prob3r train reliability")

    @classmethod
    def shipped(cls, name: str, model: Model, bank: SiteReader) -> "Calibration | None":
        """Return the shipped calibration of a model by its name, or None.

        It is None as well if the shipped calibration is for other weights or other probes.
        """
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
    """Return the columns of signals in `signals.features` of all signals."""
    return [list(EVERY_SIGNAL).index(name) for name in group]


def by_group(
    rows: Float[Tensor, "n s"], failed: Bool[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """Return the cross-fitted probabilities of a wrong output, for each group of signals.

    Args:
        rows: `signals.features` of the signals of a run, or of all signals; one row a pair.
        failed: Whether the output of each pair is wrong.
    """
    groups = GROUPS if rows.shape[1] == len(SIGNALS) else {**GROUPS, **CHECK_GROUPS}
    return {
        group: cross_fitted(rows[:, columns_of(names)], failed) for group, names in groups.items()
    }


def bank_fingerprint(bank: SiteReader) -> str:
    """Return a hash of a probe bank's header and weights, as 16 hexadecimal digits."""
    return digest(bank.header(), bank.state_dict())
