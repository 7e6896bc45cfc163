"""Files of tensors: every container that PyTorch programs write, and nothing that runs code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exgate.models.weights import Weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def check(path: Path) -> None:
    weights = Weights(path)
    assert weights.shapes == {"a.weight": (2, 3), "b": (4,)}
    for name, tensor in TENSORS.items():
        assert torch.equal(weights.read(name), tensor)
        assert weights.read(name).dtype == tensor.dtype


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_files(suffix: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / f"x{suffix}", _use_new_zipfile_serialization=zipped)
    check(tmp_path / f"x{suffix}")
    check(tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes_are_dropped(prefix: str, tmp_path: Path) -> None:
    torch.save({prefix + name: tensor for name, tensor in TENSORS.items()}, tmp_path / "x.pt")
    check(tmp_path)


def test_a_prefix_that_only_some_names_have_is_part_of_them(tmp_path: Path) -> None:
    torch.save({"model.x": torch.ones(1), "head": torch.ones(2)}, tmp_path / "x.pt")
    assert set(Weights(tmp_path).shapes) == {"model.x", "head"}


@pytest.mark.parametrize("container", [("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
def test_containers_are_opened(container: tuple[str, ...], tmp_path: Path) -> None:
    content: object = TENSORS
    for key in reversed(container):
        content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "x.pt")
    check(tmp_path)


def test_shards_with_an_index(tmp_path: Path) -> None:
    for file, name in (("one.safetensors", "a.weight"), ("two.safetensors", "b")):
        save_file({name: TENSORS[name]}, tmp_path / file)
    save_file({"c": torch.ones(1)}, tmp_path / "other.safetensors")
    index = {"weight_map": {"a.weight": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two.safetensors is not there. Copy the folder again"):
        Weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map"')
    with pytest.raises(ValueError, match=r"index.json is damaged"):
        Weights(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    for file, name in (("model_0.safetensors", "a.weight"), ("model_1.safetensors", "b")):
        save_file({name: TENSORS[name]}, tmp_path / file)
    check(tmp_path)
    save_file({"b": TENSORS["b"]}, tmp_path / "model_2.safetensors")
    with pytest.raises(ValueError, match="b is in another file of the folder too"):
        Weights(tmp_path)
    # The whole model in one file goes before anything else that lies there.
    save_file(TENSORS, tmp_path / "model.safetensors")
    check(tmp_path)


def test_what_a_trainer_leaves_beside_the_model_is_not_opened(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")
    check(tmp_path)


class Trap:
    """Unpickled without care, it runs what it likes."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("code of a checkpoint was run",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": Trap()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt holds more than tensors, or is damaged, and is not opened"):
        Weights(tmp_path)


@pytest.mark.parametrize("content", [{"lr": 0.1}, [1, 2], {}, {"state_dict": {"x": 1}}])
def test_a_pickle_without_a_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt holds no state dict"):
        Weights(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 200, -50])
def test_a_damaged_pickle_is_named(keep: int, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[:keep])
    with pytest.raises(ValueError, match=r"x.pt .*(damaged|not opened)"):
        Weights(tmp_path)


def test_what_is_no_file_of_tensors(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_text("hello world")
    with pytest.raises(ValueError, match="damaged"):
        Weights(tmp_path / "x.pt")
    (tmp_path / "x.safetensors").write_text("hello world")
    with pytest.raises(ValueError, match="damaged or cut short"):
        Weights(tmp_path / "x.safetensors")


def test_tensors_are_mapped_not_read(tmp_path: Path) -> None:
    """Opening a file reads names and shapes alone."""
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "x.pt")
    weights = Weights(tmp_path)
    content = (tmp_path / "x.pt").read_bytes()
    at = content.index(bytes(4000)) + 2000
    with open(tmp_path / "x.pt", "rb+") as file:
        file.seek(at // 4 * 4)
        file.write(b"\x01" * 4)
    assert weights.read("a").count_nonzero() > 0


def test_tied(tmp_path: Path) -> None:
    one = torch.arange(6.0).view(3, 2)
    save_file(
        {"e": one, "same": one.clone(), "other": one + torch.eye(3, 2), "wide": one.T.contiguous()},
        tmp_path / "x.safetensors",
    )
    weights = Weights(tmp_path)
    assert weights.tied("e", "same")
    assert weights.tied("e", "missing")
    assert not weights.tied("e", "other")
    assert not weights.tied("e", "wide")
