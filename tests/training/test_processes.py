import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3RConfig, random, save
from prob3r.probes import load_probes
from prob3r.training.processes import Processes, launched
from tests.scenes.readers.writers import nerfstudio

TINY = DUSt3RConfig((16, 16), 8, 16, 1, 2, 24, 2, 2)


def run(count: int, *arguments: object) -> None:
    """Run a command in so many processes, as a user would."""
    # Without --multi_gpu accelerate starts one process; --device says where it computes.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    launcher += ["--main_process_port", "0"]  # the system's choice
    command = [sys.executable, *(launcher if count > 1 else []), "-m", "prob3r"]
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1"}
    found = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr[-2000:]


def test_alone_there_is_nothing_to_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = launched()
    assert (processes.rank, processes.count, processes.first) == (0, 1, True)
    tensor = torch.ones(2)
    processes.add_up([tensor])
    assert tensor.tolist() == [1, 1]
    assert [processes.any(True), processes.any(False)] == [True, False]
    processes.wait()
    assert not Processes(1, 2).first


def test_without_accelerate_many_processes_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(Prob3rError, match=r"pip install prob3r\[scale\]"):
        launched()


def test_two_processes_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bank within 1e-4, of pairs that share views, and the same study to the bit."""
    model, photographs = tmp_path / "tiny.safetensors", tmp_path / "photographs"
    save(random(TINY, seed=1), model)
    photographs.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nerfstudio(photographs)
    banks, tables = [], []
    for count in (1, 2):
        out = tmp_path / str(count)
        learned = ["--model", model, "--data", photographs, "--pairs", 32]
        run(count, "train", "probes", *learned, "--out", out / "probes")
        banks.append(load_probes(out / "probes" / "probes.safetensors").state_dict())
        arguments = ["study", "look-alikes", "--model", model, "--pairs", 18, "--out", out]
        run(count, *arguments)
        tables.append(pd.read_parquet(out / "look-alikes" / "table.parquet"))
    for name, tensor in banks[0].items():
        torch.testing.assert_close(banks[1][name], tensor, atol=1e-4, rtol=0)
    pd.testing.assert_frame_equal(*tables)
    answers = [
        json.loads((tmp_path / n / "look-alikes" / "findings.json").read_text()) for n in "12"
    ]
    assert answers[0] == answers[1]
