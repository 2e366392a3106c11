"""Damaged, forged and foreign files are one error with their names, and their code is never run."""

import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flamingo.interop.weights import fill, gathered, read_weights, renamed
from flamingo.utils.errors import UserError

STATE = {"a.weight": torch.randn(3, 4), "b": torch.randn(2)}


class Hostile:
    """Unpickled without care, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_the_kinds_of_files_are_read_alike(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save({"epoch": 1, "model_state_dict": {f"module.{k}": v for k, v in STATE.items()}}, tmp_path / "wrapped.pt")
    torch.save({**STATE, "h.0.attn.masked_bias": torch.ones(1)}, tmp_path / "buffers.pt")
    (tmp_path / "folder").mkdir()
    for i, (key, tensor) in enumerate(STATE.items()):
        save_file({key: tensor}, tmp_path / "folder" / f"model-0000{i + 1}-of-00002.safetensors")
    for name in ("a.pt", "a.bin", "a.safetensors", "wrapped.pt", "buffers.pt", "folder"):
        found = read_weights(tmp_path / name)
        assert found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE), name


@pytest.mark.parametrize("old_format", [True, False])
def test_pickled_code_is_not_run(tmp_path, old_format):
    path, written = tmp_path / "hostile.pt", tmp_path / "written"
    torch.save({**STATE, "c": Hostile(str(written))}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(UserError, match=r"hostile\.pt"):
        read_weights(path)
    path.write_bytes(pickle.dumps(Hostile(str(written))))
    with pytest.raises(UserError, match=r"hostile\.pt"):
        read_weights(path)
    assert not written.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 5, 100, -20])
def test_a_truncated_file_is_named(tmp_path, suffix, kept):
    path = tmp_path / f"half{suffix}"
    torch.save(STATE, path) if suffix == ".pt" else save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"half\{suffix}") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lie",
    [
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 4000]},
        {"dtype": "F32", "shape": [300, 4], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": [3, 4], "data_offsets": [8, 56]},
        {"dtype": "X9", "shape": [3, 4], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": [3, -4], "data_offsets": [0, 48]},
        "nothing",
    ],
    ids=["beyond the end", "other shape", "a gap", "no type", "negative", "no entry"],
)
def test_a_safetensors_header_that_lies_is_found_out(tmp_path, lie):
    header = json.dumps({"a": lie}).encode()
    path = tmp_path / "lies.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
    with pytest.raises(UserError, match=r"lies\.safetensors"):
        read_weights(path)
    path.write_bytes(struct.pack("<Q", 2**60) + header)
    with pytest.raises(UserError, match=r"lies\.safetensors"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "list"),
        ({"a": 1}, r"int.*'a'"),
        ({3: torch.ones(1)}, r"Tensor.*3"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=message):
        read_weights(tmp_path / "other.pt")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        read_weights(tmp_path / "nowhere.pt")
    with pytest.raises(UserError, match=r"model\.safetensors.*pytorch_model\.bin"):
        read_weights(tmp_path)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.k, self.v, self.gate = nn.Linear(4, 3), nn.Linear(4, 2), nn.Parameter(torch.zeros(5))


NAMES = {"k.weight": "kv", "v.weight": "kv", "k.bias": "kb", "v.bias": "vb", "gate": "g"}


def test_weights_go_to_where_their_names_say_and_come_back(tmp_path):
    theirs = {"kv": torch.randn(5, 4), "kb": torch.randn(3), "vb": torch.randn(2), "g": torch.randn(1, 1, 5)}
    model = Model()
    fill(model, theirs, NAMES, tmp_path)
    assert torch.equal(model.k.weight, theirs["kv"][:3]) and torch.equal(model.v.weight, theirs["kv"][3:])
    assert torch.equal(model.gate, theirs["g"][0, 0])
    assert all(torch.equal(tensor, theirs[key].squeeze()) for key, tensor in gathered(model, NAMES).items())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for change in ({"g": torch.ones(6)}, {"h": torch.ones(1)}, {"kv": torch.ones(20)}):
        with pytest.raises(UserError):
            fill(model, {**theirs, "kb": torch.ones(3), **change}, NAMES, tmp_path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_name_comes_from_the_first_pattern_that_matches_it_all():
    table = {r"a\.(\d)": r"x.\1", r"a\.(.*)": r"y.\1"}
    assert renamed(["a.1", "a.12"], table) == {"a.1": "x.1", "a.12": "y.12"}
