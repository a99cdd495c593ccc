"""The gallery of atoms, from disk and in a browser."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from prob3r.errors import Prob3rError
from prob3r.measures.atoms import TESTS
from prob3r.models import DUSt3R, DUSt3RConfig, fingerprint, random
from prob3r.probes.dictionary import Dictionary, DictionaryShape
from prob3r.report.gallery import EXAMPLES, Seen, choose, look, write_gallery
from prob3r.rooms import Rooms
from prob3r.scenes.sampling import sample
from tests.models.joint import joint_model, scene

CONFIG = DUSt3RConfig((32, 32), 8, 16, 1, 2, 24, 2, 2)


@pytest.fixture(scope="module")
def model() -> DUSt3R:
    return random(CONFIG, seed=1)


@pytest.fixture(scope="module")
def dictionary(model: DUSt3R) -> Dictionary:
    shape = DictionaryShape(
        "dec*.0.mlp", 24, 48, 6, backbone=fingerprint(model), data="made-up scenes"
    )
    return Dictionary.drawn(shape).requires_grad_(False)


def rooms(count: int, views: int = 2):
    return sample(Rooms("test", (32, 32), compile=False, views=views), count)


@pytest.fixture(scope="module")
def page(model: DUSt3R, dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "page.html"
    write_gallery(model, dictionary, rooms(8), path, model_name="<m>", data="rooms:test", atoms=5)
    return path


def content(page: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_the_strongest_patches_and_the_scene_without_the_atom(
    page: Path, model: DUSt3R, dictionary: Dictionary
) -> None:
    data = content(page)
    assert len(data["atoms"]) == 5
    seen = look(model, dictionary, rooms(8))
    for atom in data["atoms"]:
        scenes = [example["scene"] for example in atom["examples"]]
        order = seen.strongest[:, atom["number"]].argsort(descending=True)
        assert scenes == order[: len(scenes)].tolist()
        assert len(scenes) <= EXAMPLES
        assert atom["moved"][1] == [0, 0]
        assert max(atom["moved"][0]) > 0
        assert max(atom["moved"][2]) > max(atom["moved"][0])  # three times the change of off
        points = np.frombuffer(base64.b64decode(atom["points"][0]), "<f2")
        assert points.size == 3 * 3 * (32 // atom["stride"]) ** 2
        heat = np.frombuffer(base64.b64decode(atom["examples"][0]["heat"][0]), "u1")
        assert heat.size == 16


def test_the_page_needs_nothing_else_and_trusts_no_name(page: Path) -> None:
    text = page.read_text()
    assert "<m>" not in text
    assert "&lt;m&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "{{" not in text


def test_the_best_of_every_test_come_first_and_silent_atoms_never() -> None:
    codes = [[torch.tensor([[3.0, 1.0, 0.0, 2.0]]).half()]]
    scores = torch.full((len(TESTS), 4), torch.nan)
    controls = scores.clone()
    scores[0] = torch.tensor([0.1, -0.9, 0.95, 0.2])
    scores[3] = torch.tensor([0.0, 0.0, 0.0, 0.5])
    controls[0] = torch.tensor([0.0, 0.1, 0.9, 0.0])
    assert choose(Seen([], codes, scores, controls), 9) == [1, 3, 0]


def test_any_number_of_views() -> None:
    joint = joint_model()
    width = next(iter(joint.stacks.values())).width
    made = Dictionary.drawn(DictionaryShape("dec*.0.mlp", width, 2 * width, 8)).requires_grad_(
        False
    )

    class Scenes:
        def __len__(self) -> int:
            return 2

        def batch(self, indices):
            return scene(3, 2)[list(indices)]

    seen = look(joint, made, Scenes())
    assert [len(each) for each in seen.codes] == [3, 3]
    assert seen.scores.isnan().all()  # the truth is not known


def test_another_models_dictionary_is_refused(dictionary: Dictionary, tmp_path: Path) -> None:
    with pytest.raises(Prob3rError, match="was trained on the model"):
        write_gallery(
            random(CONFIG, seed=2), dictionary, rooms(2), tmp_path / "p", model_name="", data=""
        )


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_an_atom_is_chosen_and_switched_off(browser, page: Path, size) -> None:
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else 0)
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready]")
    number = content(page)["atoms"][2]["number"]
    tab.locator(".atom").nth(2).click()
    assert tab.locator("#one h2").inner_text() == f"Atom {number}"
    assert tab.locator("[data-role=badge]").inner_text() == "The output of the model"
    picture = "c => c.toDataURL()"
    tab.wait_for_timeout(300)
    before = tab.eval_on_selector("#one canvas", picture)
    tab.locator("label:has(input[name=state][value='2'])").click()
    tab.wait_for_timeout(1500)
    assert "Atom × 4, which moves view 1 by" in tab.locator("[data-role=badge]").inner_text()
    assert tab.eval_on_selector("#one canvas", picture) != before
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert complaints == []
