"""Banks that are found in the cache, or fitted and put there: by two at once, or killed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random, save
from prob3r.probes import Asked, RidgeBank, provide, provide_each, save_probes
from prob3r.probes.cache import find, folder, kept
from prob3r.probes.fit import fit_together
from prob3r.probes.provide import scenes_to_fit
from prob3r.probes.scenes import HELD_OUT, FitScenes
from tests.probes.test_fit import album

CONFIG = DUSt3RConfig((16, 16), 8, 16, 1, 2, 16, 1, 2)
FEW = Asked(scenes=60)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


class Log:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shares: list[float] = []

    def announce(self, line: str) -> None:
        self.line_first = not self.shares
        self.lines.append(line)

    def progress(self, what: str, share: float) -> None:
        self.shares.append(share)


def test_a_bank_is_fitted_once_and_found_again(model: DUSt3R) -> None:
    log = Log()
    first = provide(model, ["ridge"], FEW, "maxi", log)["ridge"]
    (line,) = log.lines
    plan = r"Fitting ridge probes of maxi on 60 scenes of rooms:train takes about \d+ seconds and"
    assert re.match(rf"{plan} \d+\.\d GiB of memory; the probes are kept for later runs\.$", line)
    assert log.line_first
    assert log.shares == sorted(log.shares)
    assert log.shares[-1] == pytest.approx(1.0)
    again = Log()
    second = provide(model, ["ridge"], FEW, show=again)["ridge"]
    assert not again.lines
    assert second.header() == first.header()
    assert torch.equal(second.weight, first.weight)
    names = {f"{each.kind} {each.fit.whose}" for each in kept(fingerprint(model))}
    assert names == {"ridge truth", "ridge own", "encoder truth", "encoder own"}


def test_the_scenes_that_a_fit_will_take_are_known_before(
    model: DUSt3R, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()

    def counted(model: DUSt3R, chosen: FitScenes, *arguments: Any) -> list[list[RidgeBank]]:
        taken.append(len(chosen.scenes) + len(chosen.held_out))
        return fit_together(model, chosen, *arguments)

    module = sys.modules["prob3r.probes.provide"]  # the package has a function of this name
    monkeypatch.setattr(module, "fit_together", counted)
    monkeypatch.setattr("prob3r.probes.settings.HELD_PAIRS", 12)
    targets = ["depth", "pointmap", "pose"]  # the first two share a pass
    wanted = scenes_to_fit(model, targets, FEW)
    provide_each(model, ["ridge"], targets, FEW)
    assert len(taken) == 2
    assert wanted == sum(taken) == 60 + HELD_OUT + 60 + 12
    assert scenes_to_fit(model, ["pose"]) == 768 + 12


def test_controls_are_fitted_to_the_same_on_the_same(model: DUSt3R, tmp_path: Path) -> None:
    asked = Asked(data=str(album(tmp_path / "photos", 8)), scenes=60)
    provide(model, ["ridge"], asked)
    banks = provide(model, ["ridge", "random", "encoder"], Asked(scenes=60))
    data = {bank.fit.data for bank in banks.values() if bank.fit}
    assert data == {f"{tmp_path}/photos#{next(iter(data)).rpartition('#')[2]}"}
    assert {bank.fit.whose for bank in banks.values() if bank.fit} == {"own"}
    assert banks["random"].random_seed is not None
    assert len(kept()) == len(kept(fingerprint(model))) == 3


def test_rooms_go_first_and_other_data_is_its_own_bank(model: DUSt3R, tmp_path: Path) -> None:
    photos = Asked(data=str(album(tmp_path / "photos", 8)), scenes=60)
    of_photos = provide(model, ["ridge"], photos)["ridge"]
    of_rooms = provide(model, ["ridge"], Asked(data="rooms:train", scenes=60))["ridge"]
    found = find(fingerprint(model), "ridge")
    assert found is not None
    assert found.load().header() == of_rooms.header()
    assert provide(model, ["ridge"], photos)["ridge"].header() == of_photos.header()
    assert find(fingerprint(model), "ridge", "own", "rooms:train") is not None
    assert find("0123456789abcdef", "ridge") is None


def test_what_cannot_be_fitted_is_one_sentence(model: DUSt3R, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="'cubic' cannot be fitted; give ridge, features,"):
        provide(model, ["cubic"])
    photos = str(album(tmp_path / "photos", 8))
    with pytest.raises(Prob3rError, match=r"truth of .*photos.* is not known"):
        provide(model, ["ridge"], Asked("truth", photos, scenes=60))


def test_a_removed_bank_is_fitted_again(model: DUSt3R) -> None:
    provide(model, ["ridge"], FEW)
    for each in kept():
        each.remove()
    assert not list(folder().iterdir())
    log = Log()
    provide(model, ["ridge"], FEW, show=log)
    assert log.lines


def test_damaged_and_unfinished_banks_count_as_none(model: DUSt3R) -> None:
    whole = provide(model, ["ridge"], FEW)["ridge"]
    for file in folder().glob("*/*"):
        file.write_bytes(file.read_bytes()[:100])
    unfinished = next(folder().glob("*")) / ".ridge-own-0.1.safetensors"
    save_probes(whole, unfinished)
    assert kept() == []
    log = Log()
    provide(model, ["ridge"], FEW, show=log)
    assert log.lines


def test_a_cache_that_cannot_be_written_is_only_slower(
    model: DUSt3R, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the folder should be")
    assert provide(model, ["ridge"], FEW)["ridge"].kind == "ridge"
    assert "not kept for later runs" in caplog.text


SCRIPT = """
import sys, time
from prob3r.models import load
from prob3r.probes import Asked, provide, save_probes

class Slow:
    def announce(self, line):
        pass

    def progress(self, what, share):
        print(share, flush=True)
        time.sleep(0.05)

provide(load(sys.argv[1]), ["ridge"], Asked(scenes=60), show=Slow())
"""


def started(weights: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(weights)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_two_at_once_both_end_well_and_a_killed_one_leaves_nothing(
    model: DUSt3R, tmp_path: Path
) -> None:
    save(model, weights := tmp_path / "model.safetensors")
    killed, *others = (started(weights) for _ in range(3))
    assert killed.stdout is not None
    killed.stdout.readline()  # it is at work
    killed.kill()
    killed.wait()
    for other in others:
        output, _ = other.communicate(timeout=120)
        assert other.returncode == 0
        assert float(output.split()[-1]) == pytest.approx(1.0)
    files = sorted(file.name for file in folder().glob("*/*"))
    assert len(files) == len(kept(fingerprint(model))) == 4
    assert not any(name.startswith(".") for name in files)
    for each in kept():
        assert each.load().fit == each.fit
