import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from prob3r import load
from prob3r.cli import main
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, info, metadata, random
from tests.io.hub.stand_in import TOKEN, Hub, Repository
from tests.models.conftest import SMALL
from tests.models.test_checkpoints import assert_same, write_hub, write_shards

README = b"---\nlicense: cc-by-nc-sa-4.0\n---\n# Small"


def layout(model: DUSt3R, folder: Path) -> dict[str, bytes]:
    """Return the files of a hub folder."""
    write_hub(folder, model.state_dict())
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def small(hub: Hub, model: DUSt3R, tmp_path: Path) -> Repository:
    """A repository with a tiny DUSt3R, and more files than it takes."""
    repository = hub.create("lab/small")
    extra = {"README.md": README, "pytorch_model.bin": b"\x80", "logs/events": b"1"}
    repository.commit(layout(model, tmp_path / "small") | extra)
    return repository


def refused(source: str) -> str:
    """Return what both doors say of a source that cannot be used."""
    messages = []
    for function in (load, info):
        with pytest.raises(Prob3rError) as error:
            function(source)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


def test_a_model_is_loaded_by_its_id(hub: Hub, small: Repository, model: DUSt3R) -> None:
    assert_same(load("lab/small"), model)
    assert not hub.asked_for("pytorch_model.bin")


def test_weights_in_shards_are_fetched(hub: Hub, model: DUSt3R, tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "sharded", model.state_dict())
    write_shards(folder, model.state_dict())
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    whole = hub.create("lab/sharded")
    whole.commit(files | {"model-fp16.safetensors": b"1"})
    assert_same(load("lab/sharded"), model)
    assert not hub.asked_for("model-fp16.safetensors")
    del files["model-00002-of-00003.safetensors"]
    hub.create("lab/half").commit(files)
    with pytest.raises(Prob3rError, match=r"lacks 1 of its 3 shards of weights: model-00002-of-"):
        load("lab/half")


def test_weights_are_fetched_once(hub: Hub, small: Repository, model: DUSt3R) -> None:
    load("lab/small")
    hub.requests.clear()
    assert_same(load("lab/small"), model)
    assert not hub.asked_for("model.safetensors")


def test_info_leaves_the_weights_where_they_are(
    hub: Hub, small: Repository, model: DUSt3R, tmp_path: Path
) -> None:
    found = info("lab/small")
    assert found.config == SMALL
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.licence == "cc-by-nc-sa-4.0"
    assert metadata("lab/small")["config"] == SMALL.to_dict()
    assert hub.asked_for("config.json")
    assert not hub.asked_for("model.safetensors")


def test_the_command_takes_an_id(
    hub: Hub, small: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prob3r", "info", "lab/small"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "cc-by-nc-sa-4.0" in capsys.readouterr().out


def test_a_revision_can_be_pinned(
    hub: Hub, small: Repository, model: DUSt3R, tmp_path: Path
) -> None:
    first = small.references["main"]
    small.references["v1"] = first
    small.commit(layout(random(SMALL, 2), tmp_path / "newer"))
    assert_same(load("lab/small"), random(SMALL, 2))
    for revision in (first, "v1"):
        assert_same(load(f"lab/small@{revision}"), model)
        assert info(f"lab/small@{revision}").licence == "cc-by-nc-sa-4.0"


def test_a_path_that_exists_goes_first(
    hub: Hub, small: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    write_hub(tmp_path / "lab" / "small", random(SMALL, 5).state_dict())
    assert_same(load("lab/small"), random(SMALL, 5))
    assert hub.requests == []


def test_what_was_fetched_is_there_offline(
    hub: Hub, small: Repository, model: DUSt3R, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("lab/small")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(load("lab/small"), model)
    assert_same(load(f"lab/small@{small.references['main']}"), model)
    assert info("lab/small").config == SMALL
    message = refused("lab/other")
    assert message == "'lab/other' is not complete in the hub's cache, and HF_HUB_OFFLINE is set."
    assert hub.requests == []


def test_the_card_alone_is_no_model_offline(
    hub: Hub, small: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    info("lab/small")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Prob3rError, match=r"'lab/small'.*HF_HUB_OFFLINE is set|model\.safetensors"):
        load("lab/small")
    assert info("lab/small").config == SMALL


def test_without_a_network_the_cache_serves(
    hub: Hub, small: Repository, model: DUSt3R, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("lab/small")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert_same(load("lab/small"), model)
    assert "the hub cannot be reached" in refused("lab/other")


def test_a_repository_that_is_not_there(hub: Hub) -> None:
    assert "There is no 'lab/none' on the hub, or it is private" in refused("lab/none")


def test_a_revision_that_is_not_there(hub: Hub, small: Repository) -> None:
    message = refused("lab/small@v9")
    assert message == "'lab/small' on the hub has no revision 'v9'."


def test_locked_repositories_open_to_their_owner(
    hub: Hub, model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = layout(model, tmp_path / "small")
    hub.create("lab/gated", gated=True).commit(files)
    hub.create("lab/private", private=True).commit(files)
    assert "'lab/gated' is gated; ask for access" in refused("lab/gated")
    assert "no 'lab/private' on the hub, or it is private" in refused("lab/private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_same(load("lab/gated"), model)
    assert_same(load("lab/private"), model)


@pytest.mark.parametrize("status", [403, 418])
def test_other_answers_are_told(hub: Hub, small: Repository, status: int) -> None:
    hub.broken = status
    assert f"The hub answered {status} when asked for 'lab/small'" in refused("lab/small")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_repositories_of_something_else(name: str, hub: Hub, model: DUSt3R, tmp_path: Path) -> None:
    files = layout(model, tmp_path / "small")
    del files[name]
    hub.create("lab/half").commit(files)
    with pytest.raises(Prob3rError, match=rf"'lab/half' on the hub has no {name}\."):
        load("lab/half")


def test_a_configuration_of_no_known_architecture(hub: Hub) -> None:
    hub.create("lab/bert").commit({"config.json": b'{"vocab_size": 3}', "model.safetensors": b""})
    assert "config.json is not of an architecture that is known" in refused("lab/bert")


@pytest.mark.parametrize(
    "source", ["lab/small.pth", "./lab/small", "a/b/c", "lab/small@", "/lab/s"]
)
def test_paths_are_no_ids(source: str, hub: Hub) -> None:
    assert f"There is no model '{source}'" in refused(source)
    assert hub.requests == []


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'prob3r[hub]'" in refused("lab/small")


def test_the_library_is_not_imported_for_files() -> None:
    code = "import prob3r, sys; prob3r.load('mini'); assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
