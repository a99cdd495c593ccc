import json
import math
import multiprocessing
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.training import Progress, Stage, Task, loop, run


class Line(Task):
    """Fits a line; each step has points of its own."""

    def __init__(self, folder: Path, lr: float = 0.05, score: tuple[float, ...] = ()):
        self.identity = "line"
        self.stages = (
            Stage("pointmaps", 8, pairs=12, batch=2, lr=lr, warmup=4),
            Stage("pointmaps", 8, pairs=8, batch=2, lr=lr, warmup=0, decay=0.5),
        )
        self.validate_every = 4
        torch.manual_seed(0)
        self.module: nn.Linear = nn.Linear(1, 1)
        self.optimizers = [torch.optim.AdamW(self.module.parameters(), lr=0.0)]
        self.path = folder / "best"
        self.scores = list(score)
        self.rates: list[float] = []
        self.ended: list[int] = []

    def begin(self, number: int) -> None:
        self.number = number

    def losses(self, step: int) -> Iterator[Tensor]:
        self.rates.append(self.optimizers[0].param_groups[0]["lr"])
        x = torch.randn(16, 1, generator=torch.Generator().manual_seed(100 * self.number + step))
        yield (self.module(x) - (2 * x + 1)).square().mean()

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), 0.5)

    def measure(self) -> dict[str, float]:
        error = abs(self.module.weight.item() - 2) + abs(self.module.bias.item() - 1)
        return {"error": self.scores.pop(0) if self.scores else error}

    def score(self, metrics: dict[str, float]) -> float:
        return metrics["error"]

    def save(self, metrics: dict[str, float]) -> None:
        self.path.write_text(str(metrics["error"]))

    def end(self, number: int) -> None:
        self.ended.append(number)
        with torch.no_grad():
            self.module.bias.mul_(0.5)


class Killed(BaseException):
    pass


def killed_at(count: int) -> Callable[[Progress], None]:
    """A report that fails the count-th time, as if the process died."""
    words: list[Progress] = []

    def report(progress: Progress) -> None:
        words.append(progress)
        if len(words) == count:
            raise Killed

    return report


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prob3r.training.loop.STRETCH", 4)


@pytest.fixture
def unbroken(tmp_path: Path) -> tuple[Line, list[Progress]]:
    task, words = Line(tmp_path / "unbroken"), list[Progress]()
    run(task, tmp_path / "unbroken", report=words.append)
    return task, words


def test_a_run_goes_on_though_its_parameters_come_in_another_order(
    unbroken: tuple[Line, list[Progress]], tmp_path: Path
) -> None:
    run(Line(tmp_path), tmp_path, seconds=0.0)
    turned = Line(tmp_path)
    parameters = list(turned.module.parameters())[::-1]
    turned.optimizers = [torch.optim.AdamW(parameters, lr=0.0)]
    run(turned, tmp_path)
    for found, wanted in zip(
        turned.module.parameters(), unbroken[0].module.parameters(), strict=True
    ):
        assert torch.equal(found, wanted)


def test_a_state_without_the_names_of_its_parameters_is_read(
    unbroken: tuple[Line, list[Progress]], tmp_path: Path
) -> None:
    run(Line(tmp_path), tmp_path, seconds=0.0)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["parameters"]
    torch.save(state, tmp_path / "state.pt")
    task = Line(tmp_path)
    run(task, tmp_path)
    assert torch.equal(task.module.weight, unbroken[0].module.weight)


def test_a_run_reports_and_logs_where_it_stands(
    unbroken: tuple[Line, list[Progress]], tmp_path: Path
) -> None:
    task, words = unbroken
    stands = [(word.stage, word.pairs, word.of_pairs) for word in words]
    assert stands == [(0, 4, 12), (0, 8, 12), (0, 12, 12), (1, 4, 8), (1, 8, 8)]
    assert all(word.pairs_per_second > 0 and word.loss > 0 and word.metrics for word in words)
    lines = (tmp_path / "unbroken" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"] for line in lines] == [w.metrics["error"] for w in words]
    assert [json.loads(line)["pairs"] for line in lines] == [4, 8, 12, 4, 8]
    assert task.ended == [0, 1]


def test_the_learning_rate_is_the_stages(unbroken: tuple[Line, list[Progress]]) -> None:
    expected = [stage.lr_at(step) for stage in unbroken[0].stages for step in range(stage.steps)]
    assert unbroken[0].rates == expected


def test_validation_comes_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    task, words = Line(tmp_path), list[Progress]()
    task.validate_every = 8
    run(task, tmp_path, report=words.append)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["pairs"] for line in lines] == [8, 12, 8]
    assert words[0].metrics == {}
    assert words[1].metrics == words[1].metrics != {}


@pytest.mark.parametrize("stops", range(1, 6))
def test_a_run_that_ran_out_of_time_goes_on_as_if_nothing_had_been(
    unbroken: tuple[Line, list[Progress]], tmp_path: Path, stops: int
) -> None:
    for _ in range(stops):
        run(Line(tmp_path), tmp_path, seconds=0.0)
    task = Line(tmp_path)
    run(task, tmp_path)
    assert torch.equal(task.module.weight, unbroken[0].module.weight)
    assert torch.equal(task.module.bias, unbroken[0].module.bias)
    assert (tmp_path / "best").read_text() == (tmp_path / "unbroken" / "best").read_text()


@pytest.mark.parametrize("seconds", [0.0, math.inf], ids=["every stretch", "each stage"])
@pytest.mark.parametrize("count", range(1, 6))
def test_a_run_that_was_killed_goes_on_from_its_last_state(
    unbroken: tuple[Line, list[Progress]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    seconds: float,
) -> None:
    monkeypatch.setattr("prob3r.training.loop.CHECKPOINT_SECONDS", seconds)
    with pytest.raises(Killed):
        run(Line(tmp_path), tmp_path, report=killed_at(count))
    task = Line(tmp_path)
    run(task, tmp_path)
    assert torch.equal(task.module.weight, unbroken[0].module.weight)
    assert torch.equal(task.module.bias, unbroken[0].module.bias)


def test_a_run_that_is_done_does_nothing_more(
    unbroken: tuple[Line, list[Progress]], tmp_path: Path
) -> None:
    task = Line(tmp_path / "unbroken")
    run(task, tmp_path / "unbroken")
    assert task.rates == []
    assert torch.equal(task.module.weight, unbroken[0].module.weight)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    run(Line(tmp_path, score=(3.0, 1.0, 2.0, math.inf, 1.0)), tmp_path)
    assert (tmp_path / "best").read_text() == "1.0"
    again = Line(tmp_path, score=(0.5,))
    again.stages = (*again.stages, Stage("pointmaps", 8, 4, 2, 0.1))
    run(again, tmp_path)
    assert (tmp_path / "best").read_text() == "0.5"


def test_what_was_best_before_a_stop_still_counts(tmp_path: Path) -> None:
    run(Line(tmp_path, score=(1.0,)), tmp_path, seconds=0.0)
    run(Line(tmp_path, score=(2.0, 3.0, 2.0, 1.5)), tmp_path)
    assert (tmp_path / "best").read_text() == "1.0"


def test_the_state_of_another_task_is_refused(tmp_path: Path) -> None:
    run(Line(tmp_path), tmp_path, seconds=0.0)
    other = Line(tmp_path)
    other.identity = "circle"
    with pytest.raises(Prob3rError, match=r"state\.pt belongs to 'line' and not to 'circle'; give"):
        run(other, tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_state_is_one_sentence(tmp_path: Path, kept: float) -> None:
    run(Line(tmp_path), tmp_path, seconds=0.0)
    state = tmp_path / "state.pt"
    content = state.read_bytes()
    state.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(Prob3rError, match=r"state\.pt is damaged .*; delete it") as caught:
        run(Line(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_weight_that_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    """torch.load does not look at the checksums of its archive."""
    run(Line(tmp_path), tmp_path, seconds=0.0)
    state = tmp_path / "state.pt"
    weight = torch.load(state, weights_only=True)["model"]["weight"].numpy().tobytes()
    content = state.read_bytes()
    assert weight in content
    state.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))
    with pytest.raises(Prob3rError, match=r"state\.pt is damaged"):
        run(Line(tmp_path), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken(Line):
        def losses(self, step: int) -> Iterator[Tensor]:
            yield from (loss * (math.nan if step == 3 else 1.0) for loss in super().losses(step))

    run(Line(tmp_path), tmp_path, seconds=0.0)
    state = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(Prob3rError, match="not finite at step 4 of stage 0; lower the learning"):
        run(Broken(tmp_path), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == state


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Prob3rError, match="cannot be created as a folder"):
        run(Line(tmp_path), tmp_path / "file")


class Slow(Line):
    """A line whose every step takes a moment, so that a run can be killed anywhere in it."""

    def losses(self, step: int) -> Iterator[Tensor]:
        time.sleep(0.002)
        yield from super().losses(step)


def fit(folder: Path) -> None:
    """Train in a process of its own, with a checkpoint after every stretch."""
    torch.set_num_threads(1)
    loop.STRETCH, loop.CHECKPOINT_SECONDS = 4, 0.0
    run(Slow(folder), folder)


def test_a_run_killed_at_any_moment_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """At least 20 kills at random moments, that of writing a checkpoint among them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prob3r.training", __name__])
    alone = context.Process(target=fit, args=(tmp_path / "unbroken",))
    alone.start()
    alone.join(60)
    moments = random.Random(0)
    folder, kills = tmp_path / "killed", 0
    while kills < 20:
        process = context.Process(target=fit, args=(folder,))
        process.start()
        # Often shorter than a run takes, now and then longer; an ended one starts afresh.
        process.join(moments.uniform(0.0, 0.15))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        if (folder / "state.pt").exists():
            loop._read(folder / "state.pt")  # raises if it is damaged
        if process.exitcode == 0:
            same(folder, tmp_path / "unbroken")
            shutil.rmtree(folder)
    fit_again = context.Process(target=fit, args=(folder,))
    fit_again.start()
    fit_again.join(60)
    assert fit_again.exitcode == 0
    same(folder, tmp_path / "unbroken")
    assert not list(folder.glob(".*"))  # nothing half-written is left


class Endless(Line):
    """A line that is never done."""

    def losses(self, step: int) -> Iterator[Tensor]:
        if self.number or step > 4:
            time.sleep(3600)
        yield from super().losses(step)


def fit_without_end(folder: Path) -> None:
    loop.STRETCH, loop.CHECKPOINT_SECONDS = 4, 0.0
    run(Endless(folder), folder)


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prob3r.training", __name__])
    first = context.Process(target=fit_without_end, args=(tmp_path,))
    first.start()
    while not (tmp_path / "state.pt").exists():
        assert first.exitcode is None
        time.sleep(0.01)
    with pytest.raises(Prob3rError, match=r"Another process is using .*; wait until it ends"):
        run(Line(tmp_path), tmp_path)
    first.kill()
    first.join()
    run(Line(tmp_path), tmp_path)
    run(Line(tmp_path / "unbroken"), tmp_path / "unbroken")
    same(tmp_path, tmp_path / "unbroken")


def same(one: Path, other: Path) -> None:
    """Two runs left the same weights, to the bit, and the same word of how it went."""
    first, second = (torch.load(folder / "state.pt", weights_only=True) for folder in (one, other))
    assert first["step"] == second["step"]
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert (one / "best").read_text() == (other / "best").read_text()
    lines = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()]
             for f in (one, other)]  # fmt: skip
    untimed = [[{k: v for k, v in line.items() if k != "pairs_per_second"} for line in log]
               for log in lines]  # fmt: skip
    assert untimed[0] == untimed[1]
