import json
import re
from pathlib import Path

import pytest
import torch

from prob3r import load_probes
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint, random, read_tensors
from prob3r.probes import Lens, ProbeBank, ProbeConfig, SiteReader, check_backbone
from tests.io.hub.stand_in import TOKEN, Hub
from tests.models.conftest import SMALL

CONFIG = ProbeConfig(24, 16, 3, width=10)


def some_bank(model: DUSt3R, seed: int = 4) -> ProbeBank:
    return ProbeBank(("dec2.1.mlp", "dec1.embed"), CONFIG, fingerprint(model), seed)


@pytest.fixture
def bank(model: DUSt3R) -> ProbeBank:
    return some_bank(model)


def assert_same(got: SiteReader, expected: SiteReader) -> None:
    assert type(got) is type(expected)
    assert got.header() == expected.header()
    states = got.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_folder_and_back(bank: ProbeBank, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bank"
    bank.save_pretrained(folder, {"pairs": 7})
    assert sorted(file.name for file in folder.iterdir()) == ["probes.json", "probes.safetensors"]
    assert_same(ProbeBank.from_pretrained(folder), bank)
    assert_same(load_probes(str(folder)), bank)
    card = json.loads((folder / "probes.json").read_text())
    assert card == {"pairs": 7, "bank": json.loads(json.dumps(bank.header()))}
    assert card == read_tensors(folder / "probes.safetensors")[1]
    assert card["bank"]["backbone"] == bank.backbone


def test_the_hub_and_back(owner: Hub, bank: ProbeBank, model: DUSt3R) -> None:
    url = bank.push_to_hub("lab/bank", metadata={"pairs": 7}, commit_message="First")
    commit = owner.repositories["models", "lab/bank"].references["main"]
    assert url.endswith(f"/lab/bank/commit/{commit}")
    for loaded in (ProbeBank.from_pretrained("lab/bank"), load_probes("lab/bank")):
        assert_same(loaded, bank)
        check_backbone(loaded, model)
        with pytest.raises(Prob3rError, match=f"trained on the model {bank.backbone}, but"):
            check_backbone(loaded, random(SMALL, 9))


def test_a_lens_goes_the_same_way(owner: Hub, model: DUSt3R) -> None:
    lens = Lens.of(model, fingerprint(model))
    lens.push_to_hub("lab/lens")
    assert_same(Lens.from_pretrained("lab/lens"), lens)
    assert_same(SiteReader.from_pretrained("lab/lens"), lens)
    with pytest.raises(Prob3rError, match="'lab/lens' holds a Lens, not a ProbeBank"):
        ProbeBank.from_pretrained("lab/lens")


def test_an_older_bank_is_had_by_its_revision(owner: Hub, model: DUSt3R) -> None:
    first, second = some_bank(model, 1), some_bank(model, 2)
    commit = first.push_to_hub("lab/bank").rsplit("/", 1)[1]
    second.push_to_hub("lab/bank")
    assert_same(ProbeBank.from_pretrained("lab/bank"), second)
    assert_same(ProbeBank.from_pretrained("lab/bank", revision=commit), first)
    assert_same(load_probes(f"lab/bank@{commit}"), first)


def test_a_private_bank_takes_a_token(hub: Hub, bank: ProbeBank) -> None:
    bank.push_to_hub("lab/secret", private=True, token=TOKEN)
    assert hub.repositories["models", "lab/secret"].private
    with pytest.raises(Prob3rError, match="or it is private"):
        ProbeBank.from_pretrained("lab/secret")
    assert_same(ProbeBank.from_pretrained("lab/secret", token=TOKEN), bank)


def test_strangers_cannot_write(hub: Hub, bank: ProbeBank) -> None:
    with pytest.raises(Prob3rError, match=r"answered 401 .* log in with `hf auth login`"):
        bank.push_to_hub("lab/bank")
    assert not hub.repositories


@pytest.mark.parametrize("name", ["bank", "lab/bank@v1", "lab/bank/more", "../bank", ""])
def test_names_that_are_none(name: str, hub: Hub, bank: ProbeBank) -> None:
    with pytest.raises(Prob3rError, match=re.escape(f"repo_id is '{name}'; it must be")):
        bank.push_to_hub(name)
    assert hub.requests == []


def test_a_repository_without_probes(hub: Hub) -> None:
    hub.create("lab/small").commit({"config.json": b"{}"})
    with pytest.raises(Prob3rError, match=r"'lab/small' on the hub has no probes\.safetensors"):
        load_probes("lab/small")


def test_a_folder_without_probes(tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match=r"probes\.safetensors is not a whole"):
        ProbeBank.from_pretrained(tmp_path)
