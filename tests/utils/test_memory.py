import pytest
import torch

from utils import memory
from utils.errors import UserError
from utils.memory import free_memory, peak_memory

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 8 GiB available, whose process is in group /batch/job."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    (tmp_path / "meminfo").write_text(f"MemTotal:  99 kB\nMemAvailable:  {8 * 2**20} kB\nHugePages_Total:   0\n")
    (tmp_path / "cgroup").write_text("1:cpuset:/elsewhere\n0::/batch/job\n")
    (tmp_path / "groups" / "batch" / "job").mkdir(parents=True)
    return tmp_path / "groups" / "batch"


def limit(folder, amount, used, cache):
    (folder / "memory.max").write_text(f"{amount}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")


def test_free_memory_is_what_the_machine_has(system):
    assert free_memory(CPU) == 8 * 2**30
    limit(system / "job", "max", 10, 0)
    assert free_memory(CPU) == 8 * 2**30


def test_free_memory_is_what_the_narrowest_limit_leaves(system):
    limit(system, 4 * 2**30, 1000, 300)
    assert free_memory(CPU) == 4 * 2**30 - 700
    limit(system / "job", 3 * 2**30, 0, 0)
    assert free_memory(CPU) == 3 * 2**30
    limit(system / "job", 100, 200, 0)
    assert free_memory(CPU) == 0


def test_free_memory_without_linux(system, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", system / "nothing")
    monkeypatch.setattr(memory, "_MEMBERSHIP", system / "nothing")
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.get)
    assert free_memory(CPU) == 1000 * 2048


def test_free_memory_here():
    assert 2**20 < free_memory(CPU) < 2**50


def test_free_memory_of_other_devices():
    with pytest.raises(UserError, match="on mps cannot be found out; give --batch-size a number"):
        free_memory(torch.device("mps"))


def test_peak_memory_counts_what_lives_at_one_time():
    def call():
        first = torch.zeros(1000, 256)  # 1 MB
        del first
        second, third = torch.zeros(2000, 256), torch.zeros(500, 256)
        return second, third

    assert peak_memory(call, CPU) == 2500 * 256 * 4
