"""Tensors read from an archive are the ones torch wrote."""

import pytest
import torch

from utils.archive import Archive, is_tensor_global
from utils.unpickle import is_plain_global, unpickle


def read(path):
    with Archive(path) as archive:
        root = unpickle(archive.pickle(), lambda name: is_tensor_global(name) or is_plain_global(name), "a.pt")
        return {name: archive.tensor(record) for name, record in root.items()}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
)
def test_every_kind_of_number(tmp_path, dtype):
    tensors = {
        "matrix": (torch.rand(3, 5) * 100).to(dtype),
        "view": (torch.rand(4, 6, 2) * 100).to(dtype)[1:, ::2].transpose(0, 2),
        "number": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    torch.save(tensors, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    for name, tensor in tensors.items():
        expected = tensor.float() if dtype.is_floating_point else tensor
        assert found[name].dtype == expected.dtype and torch.equal(found[name], expected), name


def test_tensors_can_be_written_to_afterwards(tmp_path):
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")["a"]
    found += 1
    assert found.tolist() == [[2, 2, 2], [2, 2, 2]]
