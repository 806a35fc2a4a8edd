import csv
import os

import pytest
import torch

from benchmarks import measure
from benchmarks.akconv_cases import Case
from benchmarks.cost import linear_fit
from benchmarks.measure import MeasureOptions, Report, Timing, alternate
from benchmarks.origin import commit_of, origin
from benchmarks.roofline import floors, work
from utils.errors import UserError
from utils.memory import peak_memory

CPU = torch.device("cpu")


def test_percentiles():
    assert Timing.of([0.005, 0.001, 0.004, 0.002, 0.003]) == Timing(
        pytest.approx(1.8), pytest.approx(3), pytest.approx(4.2)
    )
    assert Timing.of([0.002]) == Timing(2, 2, 2)


def test_runs_alternate_and_start_with_another_call_each_round(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "elapsed", lambda call, device, times=1: call() or 0.02)
    timings = alternate({name: lambda name=name: order.append(name) for name in "abc"}, 3, CPU)
    assert "".join(order) == "abc" + "abcbcacab"
    assert timings["a"] == Timing(20, 20, 20)


def test_a_short_call_is_repeated_within_a_run(monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "elapsed", lambda call, device, times=1: asked.append(times) or 0.003)
    alternate({"short": lambda: None}, 2, CPU)
    assert asked == [1, 4, 4]


def test_peak_memory_counts_what_lives_at_one_time():
    def call():
        a = torch.ones(1000, 250)  # 1 MB
        b = a + 1
        del a
        c = b + 1
        del b, c
        return torch.ones(1000)

    assert peak_memory(call, CPU) == pytest.approx(2_000_000, rel=0.001)
    assert peak_memory(lambda: None, CPU) == 0


def test_peak_memory_sees_the_backward_pass():
    x = torch.ones(1000, 250, requires_grad=True)
    assert peak_memory(lambda: torch.autograd.grad(x.exp().sum(), x), CPU) == pytest.approx(2_000_000, rel=0.01)


def test_least_work_of_a_hand_worked_case():
    case = Case("", channels=2, height=4, width=4, out=3, stride=2, n=5, batch=1)  # 4 cells
    assert work("rows", case) == (4 * (32 + 40 + 30 + 12), 2 * 4 * 5 * 2 * (3 + 4))
    assert work("conv", case) == (4 * (32 + 54 + 12), 2 * 4 * 9 * 2 * 3)
    assert work("layer", case) == (4 * (32 + 180 + 30 + 12), 2 * 4 * 5 * 2 * (3 + 4) + 2 * 4 * 180)
    floor = floors("rows", case, copy_gb_s=1e-6, gemm_gflop_s=1.0)  # 1 byte a millisecond
    assert floor["forward_floor_ms"] == pytest.approx(456)
    assert floor["total_floor_ms"] == pytest.approx(456 + 2 * 408 + 48)


def test_fit():
    assert linear_fit([(3, 7), (5, 11), (9, 19)]) == pytest.approx((2, 1, 1))
    assert linear_fit([(0, 0), (1, 3), (2, 0)]) == pytest.approx((0, 1, 0), abs=1e-9)


def test_report_keeps_the_rows_that_were_measured(tmp_path, capsys):
    file = tmp_path / "new" / "table.csv"
    report = Report(str(file), CPU, ("name",))
    report.add({"name": "first", "value": 1.23456, "nothing": float("nan")})
    [row] = csv.DictReader(file.open())
    assert (row["name"], row["value"], row["nothing"]) == ("first", "1.235", "")
    assert row["torch"].startswith(torch.__version__.partition("+")[0])
    report.add({"name": "second", "value": 2, "nothing": 0.0})
    assert [row["name"] for row in csv.DictReader(file.open())] == ["first", "second"]
    assert capsys.readouterr().out.split() == ["name", "first", "second"]


def test_a_file_that_can_be_written_is_neither_made_nor_emptied_before_there_are_rows(tmp_path):
    new, old = tmp_path / "new" / "table.csv", tmp_path / "old.csv"
    old.write_text("kept\n")
    for file in (new, old):
        MeasureOptions(out=str(file)).start()
    assert not new.exists() and old.read_text() == "kept\n"
    with pytest.raises(UserError, match="is a folder"):
        MeasureOptions(out=str(tmp_path)).start()
    with pytest.raises(UserError, match="cannot be written"):
        MeasureOptions(out=str(old / "table.csv")).start()


def test_commit_without_running_git(tmp_path):
    assert commit_of(tmp_path) == ""
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("0123456789abcdef0123\n")
    assert commit_of(tmp_path) == "0123456789ab"
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert commit_of(tmp_path) == ""
    (git / "packed-refs").write_text("# pack-refs\nfedcba98765432100000 refs/heads/main\n")
    assert commit_of(tmp_path) == "fedcba987654"
    (git / "refs/heads/main").write_text("aaaabbbbccccdddd\n")
    assert commit_of(tmp_path) == "aaaabbbbcccc"


def test_origin_names_the_machine_and_how_memory_is_managed(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    where = origin(CPU)
    assert where["malloc"] == "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 MALLOC_MMAP_MAX_=0"
    assert where["cpu"]
    assert where["device"] == "cpu"
    assert len(where["code"]) == 12
