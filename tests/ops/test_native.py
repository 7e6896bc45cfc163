"""The compiled kernels beyond the laws: instruction sets, threads, forks, no library, what the libraries link to."""

import os
import subprocess
import sys

import pytest
import torch

from exgate.ops import lstm, native, slstm
from tests.ops import contract
from tests.ops.contract import SPECS, Case

SETS = native.usable()
NAMES = ["slstm-sigmoid", "slstm-exp", "lstm", "lstm-peepholes"]
LAWS = [contract.equals_reference, contract.reset_separates, contract.memory_may_be_anything, contract.splits_anywhere]
kernels = pytest.mark.skipif(not SETS, reason="needs the compiled kernels")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@kernels
@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_instruction_set_keeps_the_laws(isa, name, law):
    with native.instruction_set(isa):
        assert law(SPECS[name], "cpu", torch.float32) <= contract.TOLERANCE[torch.float32]


def _case(name: str, batch: int, heads: int, size: int, time: int = 11) -> Case:
    case = Case.random(SPECS[name], torch.float32, batch=batch, time=time, reset=True)
    g = torch.Generator().manual_seed(3)
    return case.replace(
        sequences=(torch.randn(batch, time, 4, heads, size, generator=g),),
        weights=(
            torch.randn(4, heads, size, size, generator=g) * size**-0.5,
            torch.randn(3, heads, size, generator=g),
        ),
        state=type(case.state)(*(torch.rand(batch, heads, size, generator=g) + 0.5 for _ in case.state)),
    )


@kernels
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "heads", "size"), [(1, 1, 70), (7, 1, 64), (13, 3, 37), (2, 2, 130), (40, 2, 16)])
def test_larger_sizes_and_any_tail(name, batch, heads, size):
    case = _case(name, batch, heads, size)
    assert contract.error(case.run("cpu"), contract.reference(case)) <= 2e-5


@kernels
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("batch", "heads", "size"), [(1, 4, 20), (7, 1, 33), (13, 3, 37), (9, 2, 64)])
def test_any_number_of_threads_gives_the_same_bits(threads, name, batch, heads, size):
    case = _case(name, batch, heads, size)
    threads(1)
    wanted = case.run("cpu")
    for count in (2, 3, 5):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(case.run("cpu"), wanted, strict=True))


FORK = """
import os, sys, torch
from exgate.ops import native, slstm
native.instruction_set(sys.argv[1]).__enter__()
torch.set_num_threads(2)
x, r = torch.randn(3, 6, 4, 4, 8), torch.randn(4, 4, 8, 8)
wanted = slstm(x, r, backend="cpu")[0]
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = torch.equal(slstm(x, r, backend="cpu")[0], wanted)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(slstm(x, r, backend="cpu")[0], wanted)
"""


@kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_starts_its_own_threads(instruction_set):
    subprocess.run([sys.executable, "-c", FORK, instruction_set], check=True, timeout=60)


COUNT = """
import os, sys, time, torch
from exgate.ops import native, slstm
native.instruction_set(sys.argv[1]).__enter__()
if sys.argv[2] == "own":
    native._lend_threads = lambda library: None
torch.manual_seed(0)
x, r = torch.randn(3, 6, 4, 4, 8), torch.randn(4, 4, 8, 8)
before = len(os.listdir("/proc/self/task"))
def started(threads, wanted):
    torch.set_num_threads(threads)
    found.append(slstm(x, r, backend="cpu")[0])
    until = time.monotonic() + 10
    while (more := len(os.listdir("/proc/self/task")) - before) != int(wanted) and time.monotonic() < until:
        time.sleep(0.01)  # a thread that is let go takes a moment to end
    return more
found = []
print(*map(started, (1, 3, 2, 4), sys.argv[3].split()))
assert all(torch.equal(h, found[0]) for h in found)
"""


@kernels
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(("whose", "threads"), [("PyTorch's", "0 2 1 3"), ("own", "0 2 2 3")])
def test_threads_are_as_many_as_pytorch_has(instruction_set, whose, threads):
    """PyTorch's OpenMP library lets threads go that are not needed; ours sleep."""
    command = [sys.executable, "-c", COUNT, instruction_set, whose, threads]
    assert subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout.strip() == threads


def thread_count() -> int:
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0


class InWorker(torch.utils.data.Dataset):
    """What a kernel gives inside a DataLoader's worker, and how many threads it started there."""

    def __init__(self, x, r, instruction_set):
        self.x, self.r, self.instruction_set = x, r, instruction_set

    def __len__(self):
        return 1  # handing over the first result starts threads of Python's

    def __getitem__(self, index):
        torch.set_num_threads(3)  # PyTorch sets 1 in a worker; a user's code may set more
        with native.instruction_set(self.instruction_set):
            before = thread_count()
            h, _ = slstm(self.x, self.r, backend="cpu")
            return h, thread_count() - before


@kernels
@pytest.mark.parametrize("start", [m for m in ("fork", "spawn") if m in torch.multiprocessing.get_all_start_methods()])
def test_a_worker_of_a_data_loader_uses_one_thread(threads, instruction_set, start):
    threads(2)
    x, r = torch.randn(3, 6, 4, 4, 8), torch.randn(4, 4, 8, 8)
    wanted = slstm(x, r, backend="cpu")[0]  # the threads of this process are there when the worker begins
    data = InWorker(x, r, instruction_set)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start)
    h, started = next(iter(loader))
    assert torch.equal(h, wanted)
    assert started == 0


def test_without_a_library_the_reason_is_in_words():
    x, r = torch.randn(2, 3, 4, 1, 4), torch.randn(4, 1, 4, 4)
    with native.instruction_set("none"):
        assert slstm(x, r)[0].shape == (2, 3, 1, 4)
        with pytest.raises(ValueError, match="lstm: backend 'cpu' cannot take this call: the compiled kernels are not"):
            lstm(x, r, backend="cpu")


def test_a_missing_library_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(native, "_usable", ())
    monkeypatch.setattr(native, "_forced", None)
    monkeypatch.setattr(native, "_said", False)
    for _ in range(2):
        slstm(torch.randn(2, 3, 4, 1, 4), torch.randn(4, 1, 4, 4))
    assert capsys.readouterr().err == (
        "exgate: installed without compiled kernels; plain PyTorch is used, which is slower.\n"
    )


@pytest.mark.parametrize("name", ["v5", "arm64", "v3"])
def test_an_instruction_set_that_is_not_there_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "instruction_sets", lambda: ("v4", "v3"))
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    reason = "Build it: pip install" if name == "v3" else "this processor runs v4, v3. Use one of them, or none"
    with pytest.raises(ValueError, match=f"'{name}': .*{reason}"), native.instruction_set(name):
        pass


def test_float64_is_refused():
    x, r = torch.randn(2, 3, 4, 1, 4).double(), torch.randn(4, 1, 4, 4).double()
    with pytest.raises(ValueError, match="float64"):
        slstm(x, r, backend="cpu")


@kernels
def test_backward_twice_and_twice_the_same():
    case = _case("slstm-sigmoid", 3, 2, 20)
    x = case.sequences[0].requires_grad_()
    h, _ = slstm(x, case.weights[0], case.state)
    first = torch.autograd.grad(h.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(h.sum(), x)[0])


@kernels
def test_importing_exgate_loads_no_library():
    code = "import exgate; from exgate.ops import native; assert not native._loaded"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@kernels
@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF")
@pytest.mark.parametrize("isa", SETS)
def test_the_library_needs_neither_torch_nor_python(isa):
    data = (native.FOLDER / f"libexgate_{isa}.so").read_bytes()
    for name in (b"libtorch", b"libc10", b"libpython", b"libgomp", b"libstdc++.so", b"Py_", b"_ZN2at"):
        assert name not in data
