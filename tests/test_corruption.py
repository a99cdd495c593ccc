"""Damaged files of every kind that is read: each works, or ends in one sentence.

A few examples a kind by default; `PROB3R_CORRUPTIONS=1000 pytest tests/test_corruption.py` tries as
many at random of each kind, and explains a pair with what could be read.
"""

import faulthandler
import json
import logging
import os
import pickle
import re
import resource
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from prob3r.cli.compare import print_comparison
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint, random, read, save
from prob3r.probes import SiteReader, backbone_of, load_probes, save_probes
from prob3r.reliability.calibration import Calibration
from prob3r.report import explain
from prob3r.report.page import page
from prob3r.rooms import Rooms
from prob3r.runs.edits import HeadAblation, Means, head_means
from prob3r.runs.trace import trace
from prob3r.scenes import Pair
from prob3r.scenes.source import batches, open_pairs
from prob3r.studies import write_findings
from prob3r.studies.framework.conduct import conduct
from prob3r.studies.framework.results import compare, frames_of, provenance, write_result
from prob3r.studies.framework.tested import ModelUnderTest
from prob3r.studies.protocols import protocol_named
from prob3r.training import run
from prob3r.training.probes import bank_for
from prob3r.training.recipe import Recipe
from tests.cli.test_cli import RECIPE
from tests.models.conftest import SMALL
from tests.models.test_checkpoints import write_hub, write_official
from tests.reliability.test_calibration import calibration
from tests.scenes.readers.benchmark_writers import POSED, WITH_DEPTH
from tests.scenes.readers.shots import FRAMING, shots
from tests.scenes.readers.writers import WRITERS, image, png16
from tests.studies.framework.test_study import Depths
from tests.studies.protocols.sets import hpatches
from tests.studies.test_reliability import bank, batch, model, rooms
from tests.training.test_loop import Line

logger = logging.getLogger(__name__)

__all__ = ["bank", "batch", "calibration", "model", "rooms"]

EXAMPLES = int(os.environ.get("PROB3R_CORRUPTIONS", "0"))
LAYOUTS = WRITERS | WITH_DEPTH | POSED
SECONDS = 300
MEMORY = 4 * 2**30

# --- damage -----------------------------------------------------------------------------------

TOKENS = [b"\0", b"\xff", b"-", b"9" * 12, b"1e999", b"NaN", b"-1", b"0", b"null", b"{}", b"[]"]
TOKENS += [b'""', b",", b"[" * 5000, b"../../etc/passwd", b"\n", b"&", b" ", b"1", b"true"]
places = st.one_of(st.integers(0, 600), st.integers(-200, -1), st.floats(0, 1, exclude_max=True))
token = st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8))
Damage = tuple[str, int | float, int | bytes]
damage: st.SearchStrategy[Damage] = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(1, 255)),
    st.tuples(st.just("cut"), places, st.integers(1, 100)),
    st.tuples(st.just("end"), places, st.just(0)),
    st.tuples(st.just("insert"), places, token),
    st.tuples(st.just("word"), st.floats(0, 1, exclude_max=True), token),
)


def damaged(content: bytes, damages: list[Damage]) -> bytes:
    """Return bytes with some of them flipped, cut out or put in; `word` replaces a whole word."""
    for kind, place, what in damages:
        at = int(place * len(content)) if isinstance(place, float) else place
        at = max(at + len(content), 0) if at < 0 else min(at, max(len(content) - 1, 0))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ int(what)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at] + content[at + int(what) :]
        elif kind == "end":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + bytes(what) + content[at:]
        elif words := list(re.finditer(rb"[\w.+-]+", content)):
            start, end = words[int(place * len(words))].span()
            content = content[:start] + bytes(what) + content[end:]
    return content


def test_damage_does_what_it_says() -> None:
    assert damaged(b"abc", [("flip", 1, 1), ("cut", -1, 5)]) == b"ac"
    assert damaged(b"abc", [("insert", 0.5, b"-"), ("end", -1, 0)]) == b"a-b"
    assert damaged(b'{"a": 12.5}', [("word", 0.6, b"null")]) == b'{"a": null}'
    assert damaged(b"", [("flip", 3, 1), ("cut", 0.5, 1), ("word", 0.0, b"-")]) == b""


@contextmanager
def bounded() -> Iterator[None]:
    """Fail where something takes memory without end; where it hangs, the process ends."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)


# --- what is read -----------------------------------------------------------------------------


Use = Callable[[Path], None]
"""What is done with a folder of files."""


class Small(NamedTuple):
    """What the files belong to."""

    model: DUSt3R
    bank: SiteReader
    calibration: Calibration
    rooms: Rooms

    @property
    def pair(self) -> Pair:
        return self.rooms[1]

    def run(self, model: DUSt3R) -> None:
        """Use a model that was read."""
        image = self.pair.view1.image
        assert len(model(image, image).points) == 2
        self.explain(model, bank_for(model, "linear")[1])

    def explain(self, model: DUSt3R, bank: SiteReader) -> None:
        """Write a page with what was read, where there is time."""
        if EXAMPLES:
            found = explain(model, self.pair, bank, model_name="m")
            assert page(found)
            assert json.dumps(found.to_json(), allow_nan=False)


@pytest.fixture(scope="module")
def small(model: DUSt3R, bank: SiteReader, calibration: Calibration, rooms: Rooms) -> Small:
    return Small(model, bank, calibration, rooms)


def own_model(folder: Path, small: Small) -> Use:
    save(small.model, folder / "a.safetensors")
    return lambda copy: small.run(read(copy / "a.safetensors"))


def official_model(folder: Path, small: Small) -> Use:
    write_official(folder / "a.pth", random(SMALL).state_dict())
    return lambda copy: small.run(read(copy / "a.pth"))


def hub_model(folder: Path, small: Small) -> Use:
    write_hub(folder / "hub", random(SMALL).state_dict())
    return lambda copy: small.run(read(copy / "hub"))


def probe_bank(folder: Path, small: Small) -> Use:
    save_probes(small.bank, folder / "a.safetensors")

    def use(copy: Path) -> None:
        bank = load_probes(copy / "a.safetensors")
        small.explain(backbone_of(bank, small.model), bank)

    return use


def lens(folder: Path, small: Small) -> Use:
    save_probes(bank_for(small.model, "tuned")[1], folder / "a.safetensors")

    def use(copy: Path) -> None:
        bank = load_probes(copy / "a.safetensors")
        small.explain(backbone_of(bank, small.model), bank)

    return use


def means(folder: Path, small: Small) -> Use:
    head_means(small.model, [small.pair]).save(folder / "a.safetensors")

    def use(copy: Path) -> None:
        found = Means.load(copy / "a.safetensors")
        found.check(fingerprint(small.model))
        edits = [HeadAblation("dec2.1.cross_attn", mode="mean", heads=[0], source=found)]
        trace(small.model, small.pair, edits=edits)

    return use


def calibration_of_a_model(folder: Path, small: Small) -> Use:
    small.calibration.save(folder / "a.json")

    def use(copy: Path) -> None:
        judgement = Calibration.read(copy / "a.json").judge(small.model, small.pair, small.bank)
        json.dumps(judgement.to_json(), allow_nan=False)
        assert 0 <= judgement.probability <= 1

    return use


def recipe(folder: Path, small: Small) -> Use:
    (folder / "a.toml").write_text(RECIPE)
    return lambda copy: Recipe.read(copy / "a.toml")


def state(folder: Path, small: Small) -> Use:
    run(Line(folder), folder, seconds=0.0)
    (folder / "log.jsonl").unlink()  # it is written, never read
    (folder / "best").unlink()
    return lambda copy: run(Line(copy), copy)


def study(folder: Path, small: Small) -> Use:
    tested = ModelUnderTest(small.model, "m")
    conduct(Undrawn(), tested, small.rooms, 4, folder, "rooms:test")
    (folder / "depths" / "table.csv").unlink()  # both are written, never read
    (folder / "depths" / "table.parquet").unlink()

    def use(copy: Path) -> None:
        with suppress(Prob3rError):
            write_findings(copy, ["depths"])
        conduct(Undrawn(), tested, small.rooms, 4, copy, "rooms:test")
        write_findings(copy, ["depths"])

    return use


class Undrawn(Depths):
    """Without figures, which take most of the time and are never read."""

    def figures(self, table):  # type: ignore[no-untyped-def]
        return {}


def pair(folder: Path, small: Small) -> Use:
    views = []
    for i, shot in enumerate(shots()[:2]):
        image(folder / f"{i}.png", shot)
        png16(folder / f"{i}_depth.png", 1000 * shot.depth)
        known = {"intrinsics": shot.intrinsics.tolist(), "cam_to_world": shot.cam_to_world.tolist()}
        views.append({"image": f"{i}.png", "depth": f"{i}_depth.png"} | known)
    (folder / "pair.json").write_text(json.dumps({"views": views}))

    def use(copy: Path) -> None:
        pair = Pair.from_folder(copy, small.model)
        if EXAMPLES:
            page(explain(small.model, pair, small.bank, model_name="m"))

    return use


def result(folder: Path, small: Small) -> Use:
    """A result file that is compared with itself before the damage."""
    frames = frames_of(["a", "b"], "by hand")
    content = provenance(small.model, "m", "somewhere", {"name": "re10k-poses"}, frames)
    row = {"metric": "AUC@30", "value": 0.5, "low": 0.1, "high": 0.9, "better": "larger"}
    write_result({**content, "rows": [row]}, folder / "a.json")
    sound = folder.parent / "sound.json"
    shutil.copy(folder / "a.json", sound)

    def use(copy: Path) -> None:
        print_comparison(Console(file=StringIO()), compare([sound, copy / "a.json"]), ["a", "b"])

    return use


def planes(folder: Path, small: Small) -> Use:
    hpatches(folder)

    def use(copy: Path) -> None:
        protocol = protocol_named("hpatches-matches")
        chosen = protocol.choose(copy, FRAMING, None)
        for number in range(len(chosen.names)):
            truth, scale = protocol.truth(number, chosen.scenes.batch([number]))
            assert truth.visible.shape == truth.pixels.shape[:-1]
            assert min(scale) > 0

    return use


def layout(name: str) -> Callable[[Path, Small], Use]:
    def make(folder: Path, small: Small) -> Use:
        LAYOUTS[name](folder)

        def use(copy: Path) -> None:
            pairs = open_pairs(f"{name}:{copy}", FRAMING)
            for found in batches(pairs, min(4, len(pairs)), 2):
                assert found.cam_to_world.isfinite().all()
                if found.has_truth:
                    assert found.points[0].isfinite().all()

        return use

    return make


FILES = [own_model, official_model, hub_model, probe_bank, lens, means, calibration_of_a_model]
FILES += [recipe, state, study, pair, result, planes, *map(layout, LAYOUTS)]
NAMES = [f.__name__ for f in FILES[: -len(LAYOUTS)]] + list(LAYOUTS)


@pytest.mark.parametrize("make", FILES, ids=NAMES)
def test_a_damaged_file_works_or_is_one_sentence(
    make: Callable[[Path, Small], Use],
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 4)
    good = tmp_path / "good"
    good.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    use = make(good, small)
    files = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
    assert files
    use(fresh(good, tmp_path))
    counts = Counter[str]()

    @settings(
        max_examples=EXAMPLES or 12,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate],
    )
    @given(st.sampled_from(files), st.lists(damage, min_size=1, max_size=3))
    def spoil(file: Path, damages: list[Damage]) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        copy = fresh(good, tmp_path)
        (copy / file).write_bytes(damaged((good / file).read_bytes(), damages))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use(copy)
            counts["works"] += 1
        except Prob3rError as error:
            counts["refused"] += 1
            message = str(error)
            assert "\n" not in message, message
            assert message.endswith("."), message

    with bounded():
        spoil()
    logger.info("%d worked, %d were refused", counts["works"], counts["refused"])


def fresh(good: Path, folder: Path) -> Path:
    """Return a new copy of the good files, and forget what was remembered of the last one."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "copy", ignore_errors=True)
    shutil.copytree(good, folder / "copy")
    return folder / "copy"


# --- code -------------------------------------------------------------------------------------


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("make", FILES, ids=NAMES)
def test_no_file_runs_code(
    make: Callable[[Path, Small], Use],
    small: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    good = tmp_path / "good"
    good.mkdir()
    use = make(good, small)
    harm = Harm(tmp_path / "ran")
    every = sorted(path.relative_to(good) for path in good.rglob("*") if path.is_file())
    kinds = {re.sub(r"\d+", "", str(file)): file for file in every}  # of numbered ones, the last
    for file in kinds.values():
        for write in (pickled, saved, packed):
            copy = fresh(good, tmp_path)
            write(copy / file, harm)
            with suppress(Prob3rError):
                use(copy)
    assert not harm.path.exists()
    pickle.loads(pickle.dumps(harm))
    assert harm.path.exists()  # so that the test can fail


def pickled(path: Path, harm: Harm) -> None:
    path.write_bytes(pickle.dumps(harm))


def saved(path: Path, harm: Harm) -> None:
    torch.save({"model": harm, "args": harm}, path)


def packed(path: Path, harm: Harm) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([harm], dtype=object), allow_pickle=True)
