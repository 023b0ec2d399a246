"""Files of weights: tensors are read and written, other objects are refused, no code runs."""

import json
import pickle
import warnings

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from mova_jax.weights import files
from mova_jax.weights.files import WeightsError, read_tensors, write_safetensors

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([0.1, 2.0]).half(),
    "brain": torch.tensor([0.1, 2.0]).bfloat16(),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "position_ids": torch.arange(3),
    "scale": torch.tensor(4.5),
}


def check(got):
    """Compares arrays that were read with `TENSORS`."""
    assert sorted(got) == sorted(TENSORS)
    assert {name: str(value.dtype) for name, value in got.items()} == {
        "a.weight": "float32",
        "half": "float32",
        "brain": "float32",
        "double": "float64",
        "position_ids": "int64",
        "scale": "float32",
    }
    for name, value in got.items():
        np.testing.assert_array_equal(value, TENSORS[name].double().numpy(), err_msg=name)


def problems_of(path, **options):
    with pytest.raises(WeightsError) as error:
        read_tensors(path, **options)
    return error.value.problems


def test_an_error_lists_all_of_its_problems():
    error = WeightsError(["one", "two"])
    assert error.problems == ["one", "two"] and isinstance(error, ValueError)
    assert str(error) == "the weights have 2 problem(s):\n  - one\n  - two"


# -- reading


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"])
def test_floats_of_8_bits_are_read(tmp_path, kind):
    # 0.3 is none of them: the nearest is read.
    short = torch.tensor([[0.3, -1.5], [448.0, 0.0]]).clamp(-200, 200).to(getattr(torch, kind))
    tensors = TENSORS | {"short": short, "flags": torch.tensor([True, False])}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "model.pt")
    for name in ("model.safetensors", "model.pt"):
        got = read_tensors(tmp_path / name)
        value = got.pop("short")
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, short.float().numpy())
        assert got.pop("flags").tolist() == [True, False]
        check(got)


def test_tensors_that_numpy_cannot_hold_are_named(tmp_path):
    short = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    safetensors.torch.save_file(TENSORS | {"short": short}, tmp_path / "model.safetensors")
    [problem] = problems_of(tmp_path / "model.safetensors")
    assert "short is of F4, expected one of F8_E4M3" in problem
    torch.save(
        {"a": torch.ones(2), "short": short, "few": torch.eye(2).to_sparse()}, tmp_path / "a.pt"
    )
    short, few = problems_of(tmp_path / "a.pt")
    assert "short of torch.float4_e2m1fn_x2 cannot be read" in short
    assert "few of torch.float32 cannot be read" in few


def test_safetensors_alone_and_in_a_folder(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "model.safetensors")
    check(read_tensors(tmp_path / "model.safetensors"))
    check(read_tensors(tmp_path))
    check(read_tensors(str(tmp_path)))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_torch_files(tmp_path, suffix):
    torch.save(TENSORS, tmp_path / f"weights{suffix}")
    check(read_tensors(tmp_path / f"weights{suffix}"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_folder_with_other_usual_names(tmp_path, name):
    if name.endswith(".bin"):
        torch.save(TENSORS, tmp_path / name)
    else:
        safetensors.torch.save_file(TENSORS, tmp_path / name)
    check(read_tensors(tmp_path))
    # Where model.safetensors is there too, it counts.
    safetensors.torch.save_file({"b": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(read_tensors(tmp_path)) == ["b"]


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrappers_and_common_prefixes_come_off(tmp_path, key):
    wrapped = {f"module.{name}": torch.nn.Parameter(t) if t.is_floating_point() else t
               for name, t in TENSORS.items()}  # fmt: skip
    torch.save({"epoch": 3, key: wrapped, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    check(read_tensors(tmp_path / "a.pt"))


def test_a_prefix_of_some_names_only_stays(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert sorted(read_tensors(tmp_path / "a.pt")) == ["b", "module.a"]


def sharded(folder, places):
    """A folder of shards `{tensor: file}`, and its index."""
    for file in set(places.values()):
        one = {name: TENSORS[name] for name, place in places.items() if place == file}
        safetensors.torch.save_file(one, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_a_folder_of_shards(tmp_path):
    names = list(TENSORS)
    places = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(names)}
    sharded(tmp_path, places)
    check(read_tensors(tmp_path))
    check(read_tensors(tmp_path / "model.safetensors.index.json"))


def test_shards_that_are_links_to_a_cache(tmp_path):
    """Hugging Face's cache has them; a link is no path that the index chose."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    sharded(tmp_path / "snapshot", dict.fromkeys(TENSORS, "one.safetensors"))
    (tmp_path / "snapshot/one.safetensors").rename(tmp_path / "blobs/abc")
    (tmp_path / "snapshot/one.safetensors").symlink_to(tmp_path / "blobs/abc")
    check(read_tensors(tmp_path / "snapshot"))


class Scripted(torch.nn.Module):
    """A module like those in OpenAI's own files: half precision, numbers as buffers."""

    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Parameter(torch.arange(3.0).half())
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.proj


def test_torchscript_is_read_on_request_only(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Scripted()).save(tmp_path / "ViT-B-32.pt")
    [problem] = problems_of(tmp_path / "ViT-B-32.pt")
    assert "TorchScript archive" in problem and "allow_torchscript=True" in problem
    got = read_tensors(tmp_path / "ViT-B-32.pt", allow_torchscript=True)
    assert got["proj"].dtype == np.float32 and got["input_resolution"] == 224
    np.testing.assert_array_equal(got["proj"], [0, 1, 2])


# -- refused files


class Malicious:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"a": torch.ones(1), "b": Malicious(str(mark))}, tmp_path / "evil.pt")
    with open(tmp_path / "plain.bin", "wb") as file:
        pickle.dump(Malicious(str(mark)), file, protocol=2)
    for name in ("evil.pt", "plain.bin"):
        for allow in (False, True):
            [problem] = problems_of(tmp_path / name, allow_torchscript=allow)
            assert "io.open; nothing was loaded" in problem
    assert not mark.exists()
    # Loaded without these checks, the pickle does harm.
    with open(tmp_path / "plain.bin", "rb") as file:
        pickle.load(file).close()
    assert mark.exists()


def test_other_objects_and_wrong_values_are_named(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in problems_of(tmp_path / "module.pt")[0]
    torch.save({"epoch": 3, "a": torch.ones(1), "name": "x"}, tmp_path / "mixed.pt")
    assert "these are none: epoch, name" in problems_of(tmp_path / "mixed.pt")[0]
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    assert "got a list, expected tensors by name" in problems_of(tmp_path / "list.pt")[0]
    torch.save({}, tmp_path / "none.pt")
    assert "holds no tensors" in problems_of(tmp_path / "none.pt")[0]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off"])
def test_a_file_of_other_bytes_is_named(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    [problem] = problems_of(tmp_path / f"a{suffix}")
    assert f"a{suffix}: " in problem and ("no whole" in problem or "it is none" in problem)


def test_missing_files_other_suffixes_and_empty_folders(tmp_path):
    assert "there is no such file or folder" in problems_of(tmp_path / "nothing")[0]
    (tmp_path / "a.npz").write_bytes(b"x")
    assert "expected a folder, .safetensors or one of .pt" in problems_of(tmp_path / "a.npz")[0]
    (tmp_path / "folder").mkdir()
    assert "expected one of model.safetensors" in problems_of(tmp_path / "folder")[0]


@pytest.mark.parametrize(
    "place",
    ["../other.safetensors", "/etc/other.safetensors", "a/../../other.safetensors", "..\\o", "x"],
)
def test_an_index_cannot_lead_outside_of_its_folder(tmp_path, place):
    folder = tmp_path / "folder"
    folder.mkdir()
    safetensors.torch.save_file({"b": torch.ones(1)}, tmp_path / "other.safetensors")
    index = sharded(folder, {"a.weight": "one.safetensors"})
    index["weight_map"]["b"] = place
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    [problem] = problems_of(folder)
    assert f"expected a .safetensors file in the same folder, got {place!r}" in problem


def test_an_index_with_missing_files_or_tensors_is_refused(tmp_path):
    index = sharded(tmp_path, {"a.weight": "one.safetensors", "half": "two.safetensors"})
    file = tmp_path / "model.safetensors.index.json"
    index["weight_map"]["lost"] = "two.safetensors"
    file.write_text(json.dumps(index))
    assert "lost is in none of its files" in problems_of(tmp_path)[0]
    (tmp_path / "one.safetensors").unlink()
    (tmp_path / "two.safetensors").unlink()
    assert [p.split(": ")[1] for p in problems_of(tmp_path)] == ["missing, the index names it"] * 2
    for text in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3, "b": "c"}}', "{}"):
        file.write_text(text)
        assert "expected JSON with file names under weight_map" in problems_of(tmp_path)[0]


# -- writing


def test_written_arrays_come_back_with_their_metadata(tmp_path):
    arrays = {
        "view": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "scalar": np.float32(2.5),
        "ids": np.arange(4),
    }
    path = tmp_path / "out.safetensors"
    write_safetensors(arrays, path, {"format": "pt"})
    got = read_tensors(path)
    for name, value in arrays.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].shape == np.shape(value) and got[name].dtype == value.dtype
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.safetensors"
    write_safetensors({"a": np.ones(1, np.float32)}, path, {})

    def fail(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(files.safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors({"a": np.zeros(1, np.float32)}, path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]
    np.testing.assert_array_equal(read_tensors(path)["a"], [1.0])


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(WeightsError, match="a Git LFS pointer in place of the file"):
        read_tensors(tmp_path)
