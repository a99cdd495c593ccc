"""Models that other people's code makes: `package.module:factory`, and by an installed name."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prob3r import cli
from prob3r.errors import Prob3rError
from prob3r.models import Adapter, DUSt3R, info, load
from prob3r.models.factories import installed

EXAMPLES = Path(__file__).parents[2] / "examples"

MODULE = """
import importlib
from prob3r.models import DUSt3R, DUSt3RConfig, random

number = 3

def two_views():
    return random(DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2), seed=1).train()

def nothing():
    return {"no": "model"}

def fails():
    raise RuntimeError("there are\\nno weights.")

class Needs:
    def __init__(self, config):
        pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules of somebody else in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_models.py").write_text(MODULE)
    (tmp_path / "their_broken.py").write_text("1 / 0")
    (tmp_path / "their_needy.py").write_text("import a_package_that_is_not_here")
    for name in ("their_models", "their_broken", "their_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_factory_makes_a_model(folder: Path) -> None:
    before = list(sys.path)
    made = load("their_models:two_views")
    assert isinstance(made, DUSt3R)
    assert not made.training
    assert sys.path == before
    found = info("their_models:two_views")
    assert (found.config, found.sites) == (made.config, made.sites())
    assert [stack.name for stack in found.stacks] == ["enc", "dec"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("no_module_of_theirs:model", "names the module 'no_module_of_theirs', and there is none"),
        ("their_needy:model", "'a_package_that_is_not_here', which it needs, is not installed"),
        ("their_broken:model", "cannot be imported: ZeroDivisionError: division by zero"),
        ("their_models:absent", "names 'absent', and its module has no such thing"),
        ("their_models:number", "has the type int; it must be a function"),
        ("their_models:nothing", "returns a dict, which is no Model"),
        ("their_models:fails", "failed: RuntimeError: there are no weights"),
        ("their_models:Needs", "failed: TypeError: .*config"),
        ("their_models:", "There is no model 'their_models:'.*package.module:factory"),
    ],
)
def test_each_way_to_fail_is_one_sentence(folder: Path, source: str, sentence: str) -> None:
    with pytest.raises(Prob3rError, match=sentence) as caught:
        load(source)
    assert "\n" not in str(caught.value)


def test_a_package_offers_a_model_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "site"
    described = site / "their_package-1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n"
    )
    (described / "entry_points.txt").write_text(
        "[prob3r.architectures]\ntheirs = their_installed:two_views\nlost = their_lost:model\n"
    )
    (site / "their_installed.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    assert installed()["theirs"] == "their_installed:two_views"
    assert "their_installed" not in sys.modules
    result = CliRunner().invoke(cli.app, ["info"])
    assert result.exit_code == 0
    assert "theirs (their_installed:two_views)" in result.output
    assert isinstance(load("theirs"), DUSt3R)
    with pytest.raises(Prob3rError, match="'their_lost:model' names the module 'their_lost'"):
        load("lost")
    assert "facebook/VGGT-1B" in result.output


def test_the_examples_models_are_found_by_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert isinstance(load("06_many_views:model"), Adapter)
    result = CliRunner().invoke(cli.app, ["info", "05_bring_your_own_model:model"])
    assert result.exit_code == 0, result.output
    assert "2 blocks, width 32, 4 heads" in result.output
