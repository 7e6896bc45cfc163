"""A process that holds the contenders of one package, and does what lines of JSON ask of it, a reply for each.

Peers live in environments of their own, and a kernel that reads beyond its memory ends its process: so each package has
one, and their calls are interleaved from outside. Started by `benchmarks/gpu/__main__.py`; imports only torch at first.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch


class Worker:
    def __init__(self, package: str, dry: bool) -> None:
        self.package, self.dry = package, dry
        self.device = "cpu" if dry else "cuda"
        self.calls: dict[str, dict[str, Callable[[], None]]] = {}  # contender -> kind -> call
        self.stack = ExitStack()
        if dry and package == "exgate":
            from exgate.ops import gpu
            from exgate.ops.dispatch import use_backend

            self.stack.enter_context(gpu.interpreter())
            self.stack.enter_context(use_backend("triton"))

    def make(self, name: str, section: str, maker: str, options: dict, case: dict) -> dict:
        """Make a contender, call it once in each way (which compiles it), and say how much memory it takes."""
        from benchmarks.gpu import contenders, models

        torch.manual_seed(0)
        if "model" in case:
            sizes = {"dtype": case["dtype"]} if "dtype" in case else {}
            model = models.make(maker, case["model"], self.device, **sizes, **options)
            facts = models.facts(model)
            if "tokens" in case:
                calls = {"tokens": models.tokens(model, case["B"], case["prompt"], case["tokens"])}
            else:
                calls = {"step": models.step(model, case["B"], case["T"])}
        else:
            given = contenders.inputs("recurrent" if section == "recurrent" else "mlstm", case, device=self.device)
            peer, facts = contenders.make(maker, given, self.device, **options), {}
            calls = {"forward": peer.forward, "both": peer.both}
        for kind, call in calls.items():
            facts[f"{kind} bytes"] = self.peak(call)
        self.calls[name] = calls
        return facts

    def peak(self, call: Callable[[], None]) -> int:
        """Bytes beyond what is held before the call, the second: the first compiles, and fills caches."""
        call()
        if self.dry:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def time(self, name: str, kind: str, count: int) -> list[float]:
        """Milliseconds of each of `count` calls in a row, by events on the device."""
        if name not in self.calls:
            raise RuntimeError("its process ended while another contender ran")
        return self.spans(self.calls[name][kind], count)

    def spans(self, call: Callable[[], object], count: int) -> list[float]:
        if self.dry:
            from benchmarks.timing import milliseconds

            return [milliseconds(call) for _ in range(count)]
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairwise(events)]

    def drop(self) -> None:
        """Give all memory back, for the others."""
        self.calls = {}
        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()

    def exact(self, section: str, case: dict, functions: list[str], path: str) -> None:
        """Inputs, and what float64 makes of them, into a file."""
        from benchmarks.gpu import contenders

        given = contenders.inputs("recurrent" if section == "recurrent" else "mlstm", case)
        torch.save({"given": given, **{name: contenders.exact(name, given) for name in functions}}, path)

    def errors(self, maker: str, options: dict, function: str, path: str) -> dict[str, float]:
        """The largest difference of h and of each gradient, over the largest number of the tensor."""
        from benchmarks.gpu import contenders

        kept = torch.load(path)
        given, names = kept["given"], ["h", *(f"d{name}" for name in kept["given"] if name != "weight")]
        found = contenders.make(maker, given, self.device, **options).found()
        if self.package == "flashrnn":  # does r come as [out, in] or as [in, out]? As it fits better.
            turned = contenders.make(maker, given | {"r": given["r"].mT.contiguous()}, self.device, **options).found()
            turned[-1] = turned[-1].mT
            found = min(found, turned, key=lambda tensors: _error(tensors[0], kept[function][0]))
        return {name: _error(a, b) for name, a, b in zip(names, found, kept[function], strict=True)}

    def limits(self, size: int, numbers: int) -> dict[str, float]:
        """TFLOP/s of a product in bf16, GB/s of a copy (read and written), of reading a vector through a product."""
        a, b = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        source = torch.zeros(numbers, device=self.device)
        target = torch.empty_like(source)
        rows = source.view(-1, min(numbers, 8192))
        one = torch.zeros(rows.shape[1], device=self.device)
        calls = {
            "TFLOP/s bf16": (lambda: torch.mm(a, b), 2 * size**3 / 1e9),
            "GB/s copy": (lambda: target.copy_(source), 8 * numbers / 1e6),
            "GB/s read": (lambda: torch.mv(rows, one), 4 * numbers / 1e6),
        }
        return {name: work / min(self.spans(call, 12)[2:]) for name, (call, work) in calls.items()}

    def machine(self) -> dict:
        from importlib.metadata import PackageNotFoundError, version

        names = ("torch", "triton", self.package, *(("mlstm_kernels",) if self.package == "transformers" else ()))
        found = {}
        for name in dict.fromkeys(names):
            try:
                found[name] = version({"fla": "flash-linear-attention"}.get(name, name))
            except PackageNotFoundError:
                found[name] = "absent"
        if not self.dry:
            found["device"] = torch.cuda.get_device_name()
        return found


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found = found.detach().double().cpu()
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def main(package: str, dry: bool) -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)  # what packages print goes to the errors
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        begin = time.perf_counter()
        try:
            worker = worker or Worker(package, dry)
            reply = {"reply": getattr(worker, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            words = (str(error).strip() or type(error).__name__).splitlines()
            reply = {"failed": f"{type(error).__name__}: {words[0][:200]}"}
        replies.write(json.dumps({**reply, "seconds": round(time.perf_counter() - begin, 2)}) + "\n")
        if "CUDA error" in reply.get("failed", ""):  # nothing works any more after it: the next request starts anew
            return


if __name__ == "__main__":
    main(sys.argv[1], "--dry" in sys.argv)
