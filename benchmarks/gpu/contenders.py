"""The cells and their peers on one device, made from the same numbers. A peer is imported where it is made.

Inputs come in exgate's layout, (B, T, H, K); a peer gets copies in its own, outside of what is timed. SDPA has heads of
128, as many as give the width of the mLSTM's values: published kernels for attention take no V beside another K.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Contender

Inputs = dict[str, Tensor]


@dataclass
class Peer(Contender):
    """A contender whose leaves and output have their heads before their steps, if `heads_first`."""

    heads_first: bool = False

    def found(self) -> list[Tensor]:
        """The output and the gradients of all leaves, in exgate's layout."""
        output = self.call()
        tensors = [output.detach(), *torch.autograd.grad(output, self.leaves, self.weight)]
        return [x.transpose(1, 2) if self.heads_first else x for x in tensors]


def inputs(maker: str, case: dict[str, int], seed: int = 0, device: str = "cpu") -> Inputs:
    """Numbers that bf16 has; forget gates are rather open, as in training. `weight` is the gradient of the output.

    Those of a device are others than those of the CPU, and there much sooner.
    """
    random = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device).bfloat16().float()

    b, t, h, k = (case[letter] for letter in "BTHK")
    if maker == "recurrent":
        x, r = normal(b, t, 4, h, k), normal(4, h, k, k) * k**-0.5
        return {"x": x, "r": r.bfloat16().float(), "weight": normal(b, t, h, k)}
    v = case["V"]
    found = {"q": normal(b, t, h, k), "k": normal(b, t, h, k), "v": normal(b, t, h, v)}
    f = (normal(b, t, h) + 3.0).bfloat16().float()
    return found | {"i": normal(b, t, h), "f": f, "weight": normal(b, t, h, v)}


def make(maker: str, given: Inputs, device: str, **options: Any) -> Peer:
    """The contender that the function `maker` makes of the inputs, in bf16 on the device; gates stay in float32."""
    kind = {"i": torch.float32, "f": torch.float32}
    moved = {name: x.to(device, kind.get(name, torch.bfloat16)) for name, x in given.items()}
    return globals()[maker](moved, **options)


def exact(function: str, given: Inputs) -> list[Tensor]:
    """h and all gradients in float64 by exgate's definition, step by step."""
    from exgate import ops

    weight, *leaves = (given[n].double() for n in ("weight", *(n for n in given if n != "weight")))
    leaves = [x.requires_grad_() for x in leaves]
    if function in ("slstm", "lstm"):
        h, _ = getattr(ops, function)(*leaves, backend="reference")
    elif function == "plain":
        h, _ = ops.mlstm(*_open(*leaves), input_gate="sigmoid", normalize=False, backend="reference")
    else:
        h, _ = ops.mlstm(*leaves, input_gate=function, backend="reference")
    return [h.detach(), *torch.autograd.grad(h, leaves, weight)]


def _open(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, ...]:
    """The input gate inside of k, and an open one in its place: what an op without input gate computes."""
    return q, k * i.sigmoid()[..., None], v, torch.full_like(i, 100.0), f


def _leaves(given: Inputs, names: str, heads_first: bool = False) -> list[Tensor]:
    found = (given[name].transpose(1, 2).contiguous() if heads_first else given[name] for name in names.split())
    return [x.detach().clone().requires_grad_() for x in found]


def mlstm(given: Inputs, input_gate: str) -> Peer:
    from exgate import ops

    leaves = _leaves(given, "q k v i f")
    options = {"input_gate": input_gate, "eps": 1e-6, "backend": "triton"}
    return Peer(lambda: ops.mlstm(*leaves, **options)[0], leaves, given["weight"])


def mlstm_kernels(given: Inputs, kernel: str, chunk: int) -> Peer:
    from mlstm_kernels.torch import get_mlstm_kernel

    given = {name: x.to(given["q"].dtype) for name, x in given.items()}  # all of one type
    call, leaves = get_mlstm_kernel(kernel), _leaves(given, "q k v i f", heads_first=True)
    options = {"chunk_size": chunk, "eps": 1e-6, "autocast_kernel_dtype": torch.bfloat16}
    weight = given["weight"].transpose(1, 2).contiguous()
    return Peer(lambda: call(*leaves, **options), leaves, weight, heads_first=True)


def simple_gla(given: Inputs) -> Peer:
    """Without normaliser and input gate, which goes into k before; its logarithms of forget gates, too, are timed."""
    from fla.ops.simple_gla import chunk_simple_gla

    leaves = _leaves(given, "q k v i f")

    def call() -> Tensor:
        q, k, v, i, f = leaves
        return chunk_simple_gla(q, (k * i.sigmoid()[..., None]).to(k.dtype), v, g=F.logsigmoid(f))[0]

    return Peer(call, leaves, given["weight"])


def attention(given: Inputs, backend: str) -> Peer:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    v, size = given["v"], min(128, given["v"].shape[-1])
    shape = (v.shape[0], v.shape[2] * v.shape[3] // size, v.shape[1], size)
    leaves = [torch.randn(shape, dtype=v.dtype, device=v.device).requires_grad_() for _ in range(3)]

    def call() -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(*leaves, is_causal=True)

    return Peer(call, leaves, torch.randn_like(leaves[2]))


def recurrent(given: Inputs, cell: str, backend: str) -> Peer:
    from exgate import ops

    leaves = _leaves(given, "x r")
    return Peer(lambda: getattr(ops, cell)(*leaves, backend="triton")[0], leaves, given["weight"])


def flashrnn(given: Inputs, cell: str, backend: str) -> Peer:
    """It adds a bias, here zero. Its states come first: (S, B, T, H, K), of which h is number 0."""
    from flashrnn import flashrnn as run

    leaves = _leaves(given, "x r")
    batch, _, gates, heads, size = given["x"].shape
    bias = given["x"].new_zeros(gates, heads, size)
    start = given["x"].new_zeros(4 if cell == "slstm" else 2, batch, 1, heads, size)
    options = {"states": start, "function": cell, "backend": backend}
    return Peer(lambda: run(*leaves, bias, **options)[0][0], leaves, given["weight"])


def cudnn_lstm(given: Inputs) -> Peer:
    """PyTorch's own, as wide: also the input's product, and a recurrence of one dense head."""
    h = given["weight"].flatten(2)
    module = torch.nn.LSTM(h.shape[2], h.shape[2], batch_first=True, device=h.device, dtype=h.dtype)
    x = torch.randn_like(h).requires_grad_()
    return Peer(lambda: module(x)[0], [x, *module.parameters()], h)
