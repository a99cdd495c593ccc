import json
import math
import os
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models import (
    DUSt3R,
    open_checkpoint,
    random,
    read,
    read_tensors,
    save,
    write_tensors,
)
from tests.models.conformance import Case
from tests.models.conftest import SMALL, SMALL_STRING


def write_official(
    path: Path, weights: object, text: object = SMALL_STRING, **others: object
) -> Path:
    torch.save({"args": Namespace(model=text, lr=1e-4), "model": weights, **others}, path)
    return path


def write_hub(folder: Path, weights: dict[str, Tensor], **config: object) -> Path:
    folder.mkdir()
    values = {
        "pos_embed": "RoPE100",
        "img_size": [32, 32],
        "depth_mode": ["exp", -math.inf, math.inf],
        "conf_mode": ["exp", 1, math.inf],
        "enc_embed_dim": 16,
        "enc_depth": 1,
        "enc_num_heads": 2,
        "dec_embed_dim": 24,
        "dec_depth": 2,
        "dec_num_heads": 2,
    }
    (folder / "config.json").write_text(json.dumps(values | config))
    save_file(weights, folder / "model.safetensors")
    return folder


def assert_same(got: DUSt3R, expected: DUSt3R) -> None:
    assert got.config == expected.config
    states = got.state_dict(), expected.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not got.training
    assert {p.dtype for p in got.parameters()} == {torch.float32}
    assert not any(p.is_meta for p in got.parameters())


def sentence(path: Path) -> str:
    """Return what reading `path` says is wrong."""
    with pytest.raises(Prob3rError) as error:
        read(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert path.name in message
    return message


class TestOfficial:
    def test_it_is_read(self, tiny_case: Case, tiny_model: DUSt3R, tmp_path: Path) -> None:
        """The inventory carries a mask token besides."""
        weights = tiny_case.weights()
        assert "mask_token" in weights
        path = write_official(tmp_path / "a.pth", weights, tiny_case.model_string, epoch=3)
        assert_same(read(path), tiny_model)

    def test_pretraining_leftovers_are_ignored(self, model: DUSt3R, tmp_path: Path) -> None:
        weights = model.state_dict() | {"prediction_head.proj.weight": torch.zeros(3)}
        assert_same(read(write_official(tmp_path / "a.pth", weights)), model)

    def test_half_precision_becomes_single(self, model: DUSt3R, tmp_path: Path) -> None:
        model.half()
        path = write_official(tmp_path / "a.pth", model.state_dict())
        assert_same(read(path), model.float())

    def test_without_a_second_decoder_it_is_a_copy_of_the_first(
        self, model: DUSt3R, tmp_path: Path
    ) -> None:
        weights = {n: t for n, t in model.state_dict().items() if "blocks2" not in n}
        loaded = read(write_official(tmp_path / "a.pth", weights))
        first, second = loaded.dec_blocks.state_dict(), loaded.dec_blocks2.state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        with torch.no_grad():
            for parameter in loaded.dec_blocks.parameters():
                parameter.zero_()
        assert all(torch.equal(second[n], weights[f"dec_blocks.{n}"]) for n in second)

    def test_training_the_model_leaves_the_file_alone(self, model: DUSt3R, tmp_path: Path) -> None:
        path = write_official(tmp_path / "a.pth", model.state_dict())
        with torch.no_grad():
            for parameter in read(path).parameters():
                parameter.zero_()
        assert_same(read(path), model)

    def test_a_pickle_with_code_is_refused_and_not_run(self, model: DUSt3R, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
                return os.mkdir, (str(tmp_path / "hacked"),)

        path = write_official(tmp_path / "a.pth", model.state_dict(), extra=Payload())
        assert "can run code" in sentence(path)
        assert not (tmp_path / "hacked").exists()

    def test_a_bad_model_string_is_told_with_its_file(self, model: DUSt3R, tmp_path: Path) -> None:
        path = write_official(tmp_path / "a.pth", model.state_dict(), "open('x')")
        assert "asks for open" in sentence(path)

    @pytest.mark.parametrize(
        "content",
        [
            {},
            [1],
            torch.zeros(3),
            {"model": {}},
            {"args": Namespace(), "model": {}},
            {"args": Namespace(model=3), "model": {}},
            {"args": Namespace(model=SMALL_STRING)},
            {"args": Namespace(model=SMALL_STRING), "model": {"a": 1}},
            {"args": Namespace(model=SMALL_STRING), "model": [torch.zeros(1)]},
            {"args": {"model": SMALL_STRING}, "model": {}},
        ],
        ids=repr,
    )
    def test_other_layouts(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "a.pth")
        assert "not laid out as an official checkpoint" in sentence(tmp_path / "a.pth")


class TestHub:
    def test_it_is_read_with_its_infinities(self, model: DUSt3R, tmp_path: Path) -> None:
        folder = write_hub(tmp_path / "hub", model.state_dict())
        assert "-Infinity" in (folder / "config.json").read_text()
        assert_same(read(folder), model)

    @pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
    def test_both_files_must_be_there(self, file: str, model: DUSt3R, tmp_path: Path) -> None:
        folder = write_hub(tmp_path / "hub", model.state_dict())
        (folder / file).unlink()
        assert "must hold config.json and model.safetensors" in sentence(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff", "[" * 100_000])
    def test_a_configuration_that_is_no_object(
        self, text: str, model: DUSt3R, tmp_path: Path
    ) -> None:
        folder = write_hub(tmp_path / "hub", model.state_dict())
        (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        assert "JSON" in sentence(folder / ".." / "hub")

    def test_arguments_that_are_not_known(self, model: DUSt3R, tmp_path: Path) -> None:
        folder = write_hub(tmp_path / "hub", model.state_dict(), two_confs=True)
        with pytest.raises(Prob3rError, match=r"config.json has arguments .* two_confs"):
            read(folder)


def write_shards(folder: Path, weights: dict[str, Tensor], count: int = 3) -> Path:
    """Put a hub folder's weights into shards, with an index."""
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places = {}
    for i in range(count):
        shard = f"model-{i + 1:05}-of-{count:05}.safetensors"
        held = {name: weights[name] for name in names[i::count]}
        save_file(held, folder / shard)
        places |= dict.fromkeys(held, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class TestShards:
    @pytest.fixture
    def folder(self, model: DUSt3R, tmp_path: Path) -> Path:
        return write_shards(write_hub(tmp_path / "hub", model.state_dict()), model.state_dict())

    def test_they_are_read(self, folder: Path, model: DUSt3R) -> None:
        assert_same(read(folder), model)

    def test_half_of_them_are_missing(self, folder: Path) -> None:
        for i in (1, 3):
            (folder / f"model-0000{i}-of-00003.safetensors").unlink()
        assert sentence(folder) == (
            f"The folder {folder} lacks 2 of its 3 shards of weights: "
            "model-00001-of-00003.safetensors, model-00003-of-00003.safetensors; "
            "copy or download them."
        )

    def test_one_of_them_is_cut_short(self, folder: Path) -> None:
        shard = folder / "model-00002-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-9])
        with pytest.raises(Prob3rError, match=r"model-00002-of-00003.safetensors is not a whole"):
            read(folder)

    def test_one_of_them_holds_something_else(self, folder: Path) -> None:
        save_file({"a": torch.zeros(1)}, folder / "model-00002-of-00003.safetensors")
        with pytest.raises(Prob3rError, match=r"00002-of-00003.safetensors does not hold what"):
            read(folder)

    @pytest.mark.parametrize(
        "index",
        ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": [1]}'],
    )
    def test_an_index_that_is_none(self, index: str, folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(Prob3rError, match=r"index\.json (does not hold|must hold)"):
            read(folder)

    @pytest.mark.parametrize("place", ["../hub/model.safetensors", "/etc/x.safetensors", "a.pth"])
    def test_an_index_that_points_elsewhere(self, place: str, folder: Path) -> None:
        text = json.dumps({"weight_map": {"a": place}})
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(Prob3rError, match="must hold a weight_map"):
            read(folder)


class TestOwn:
    def test_a_model_survives(self, model: DUSt3R, tmp_path: Path) -> None:
        path = tmp_path / "mini.safetensors"
        save(model, path, {"title": "mini", "steps": 3, "errors": [0.5]})
        assert_same(read(path), model)
        assert open_checkpoint(path).card == {
            "architecture": "dust3r",
            "config": SMALL.to_dict(),
            "title": "mini",
            "steps": 3,
            "errors": [0.5],
        }
        assert [file.name for file in tmp_path.iterdir()] == [path.name]

    def test_others_may_read_it_as_any_new_file(self, model: DUSt3R, tmp_path: Path) -> None:
        save(model, tmp_path / "mini.safetensors")
        (tmp_path / "any").touch()
        modes = {file.stat().st_mode for file in tmp_path.iterdir()}
        assert len(modes) == 1

    def test_it_can_be_saved_over_the_file_it_came_from(
        self, model: DUSt3R, tmp_path: Path
    ) -> None:
        path = tmp_path / "mini.safetensors"
        save(model, path)
        loaded = read(path)
        save(loaded, path)
        assert_same(loaded, model)
        assert_same(read(path), model)

    def test_half_precision_on_disk(self, model: DUSt3R, tmp_path: Path) -> None:
        path = tmp_path / "mini.safetensors"
        save(model, path, dtype=torch.float16)
        assert {t.dtype for t in load_file(path).values()} == {torch.float16}
        assert_same(read(path), model.half().float())

    def test_weights_too_large_for_the_type_are_not_written(
        self, model: DUSt3R, tmp_path: Path
    ) -> None:
        with torch.no_grad():
            model.enc_norm.weight[0] = 1e6
        with pytest.raises(Prob3rError, match=r"not finite: enc_norm\.weight"):
            save(model, tmp_path / "mini.safetensors", dtype=torch.float16)
        assert not any(tmp_path.iterdir())

    def test_weights_are_not_judged_by_their_sum(self, model: DUSt3R, tmp_path: Path) -> None:
        with torch.no_grad():
            model.enc_norm.weight[:2] = 3e38
        save(model, tmp_path / "mini.safetensors")
        assert_same(read(tmp_path / "mini.safetensors"), model)

    @pytest.mark.parametrize("values", [[math.nan], [math.inf], [math.inf, -math.inf]])
    def test_weights_that_are_not_finite(
        self, values: list[float], model: DUSt3R, tmp_path: Path
    ) -> None:
        with torch.no_grad():
            model.enc_norm.weight[: len(values)] = torch.tensor(values)
        path = write_official(tmp_path / "a.pth", model.state_dict())
        assert "not finite: enc_norm.weight" in sentence(path)

    def test_a_failed_write_leaves_what_was_there(
        self, model: DUSt3R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "mini.safetensors"
        save(model, path)

        def fail(self: Path, target: Path) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(Prob3rError, match="No space left"):
            save(random(SMALL, seed=2), path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert_same(read(path), model)

    @pytest.mark.parametrize("name", ["mini.pth", "mini", "no/such/folder/mini.safetensors"])
    def test_names_that_cannot_be_written(self, name: str, model: DUSt3R, tmp_path: Path) -> None:
        with pytest.raises(Prob3rError, match=re.escape(name)):
            save(model, tmp_path / name)
        assert not any(tmp_path.iterdir())

    def test_a_header_is_needed(self, model: DUSt3R, tmp_path: Path) -> None:
        save_file(model.state_dict(), tmp_path / "a.safetensors")
        assert "no prob3r header" in sentence(tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("header", "named"),
        [
            ({"architecture": "nerf"}, "architecture 'nerf'"),
            ({}, "architecture None"),
            ({"architecture": "dust3r"}, "no configuration"),
            ({"architecture": "dust3r", "config": 3}, "no configuration"),
            ({"architecture": "dust3r", "config": {}}, "image_size is missing"),
            ({"architecture": "dust3r", "config": {"image_size": [1, "2"]}}, "image_size is"),
            ({"architecture": "dust3r", "config": {"depth": 3}}, "depth is not known"),
        ],
    )
    def test_headers_of_something_else(
        self, header: dict[str, Any], named: str, tmp_path: Path
    ) -> None:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, header)
        assert named in sentence(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("header", ["{", "[1]"])
    def test_headers_that_are_no_json_object(self, header: str, tmp_path: Path) -> None:
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"prob3r": header})
        assert "JSON" in sentence(tmp_path / "a.safetensors")

    def test_tensors_of_any_kind_with_any_header(self, tmp_path: Path) -> None:
        tensors = {"a": torch.arange(6).view(2, 3).T, "b": torch.randn(2, dtype=torch.float64)}
        write_tensors(tmp_path / "a.safetensors", tensors, {"of": ["anything", 1.5]})
        back, header = read_tensors(tmp_path / "a.safetensors")
        assert header == {"of": ["anything", 1.5]}
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)


class TestDamage:
    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "folder"])
    def test_nothing_there(self, name: str, tmp_path: Path) -> None:
        assert "There is no file or folder" in sentence(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"#!/bin/sh\n", b"\xff" * 9], ids=repr)
    def test_no_checkpoint(self, name: str, content: bytes, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        assert re.search("not a (whole|checkpoint)", sentence(tmp_path / name))

    @pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
    @pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
    def test_cut_short(self, name: str, kept: float, model: DUSt3R, tmp_path: Path) -> None:
        path = tmp_path / name
        if path.suffix == ".pth":
            write_official(path, model.state_dict())
        else:
            save(model, path)
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        assert re.search("not a (whole|checkpoint)", sentence(path))

    def test_an_archive_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("readme.txt", "hello")
        assert "damaged" in sentence(tmp_path / "a.pth")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "must hold config.json" in sentence(tmp_path)


def test_an_archive_with_a_damaged_end_is_one_sentence(model: DUSt3R, tmp_path: Path) -> None:
    """Python's zipfile raises for this one where it should say that it is none."""
    path = write_official(tmp_path / "a.pth", model.state_dict())
    content = path.read_bytes()
    locator = content.rindex(b"PK\x06\x07")
    path.write_bytes(content[: locator + 4] + b"\x01" + content[locator + 5 :])
    assert "is not a checkpoint" in sentence(path)
