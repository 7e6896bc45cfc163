"""Cross-entropy of a linear head, without the (tokens, vocabulary) logits: they come and go in chunks of rows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from exgate.layers.linear import product
from exgate.ops import gpu
from exgate.ops.autograd import once
from exgate.ops.dispatch import forced, transformed

IGNORED = -100
BLOCK = 4096  # logits that a program of a kernel takes at a time
_LOGITS = {"cpu": 2**22, "default": 2**26}  # elements of one chunk of logits: 16 MB, on accelerators 256 MB, in float32


def cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    soft_cap: float = 0.0,
    reduction: str = "mean",
    rows: int | None = None,
) -> Tensor:
    r"""Negative log-likelihood of `targets` under the logits $u = c \tanh(x W^\top / c)$ (c = 0: $u = x W^\top$).

    Logits are computed for some rows at a time, in the forward pass and again in the backward pass; sums are in float32
    (float64 for float64 inputs). Under autocast the products are in autocast's type.

    Args:
        x: (..., D).
        weight: (V, D).
        targets: (...) whole numbers below V; -100 is ignored.
        soft_cap: c.
        reduction: "mean" over the targets that count (0 if none does), "sum", or "none": (...), 0 where ignored.
        rows: how many rows of logits at a time; None chooses by V.
    Returns:
        nats (per token for "mean" and "none"), in float32 (float64 for float64 inputs).
    Raises:
        ValueError: shapes disagree, the reduction is unknown, or a target is not below V (seen on the CPU only).
    Cost: O(N V D) three times over forward and backward, memory O(rows V + V D).
    """
    if x.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross_entropy: targets have shape {tuple(targets.shape)}, but x has {tuple(x.shape)} = (..., D)."
        )
    if weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"cross_entropy: weight has shape {tuple(weight.shape)}; it should be (V, D) with D={x.shape[-1]}."
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is {reduction!r}; it should be 'mean', 'sum' or 'none'.")
    kind = torch.promote_types(x.dtype, weight.dtype)
    if torch.is_autocast_enabled(x.device.type) and kind != torch.float64:
        kind = torch.get_autocast_dtype(x.device.type)
    if rows is None:
        rows = max(1, _LOGITS.get(x.device.type, _LOGITS["default"]) // weight.shape[0])
        if x.device.type != "cpu" and rows > 16:
            rows -= rows % 16  # so that every chunk begins where a kernel can read 16 bytes at once
    run = _plain if transformed() or forced() == "reference" else _forward
    nll, _ = run(x.flatten(0, -2), weight, targets.flatten().contiguous(), float(soft_cap), kind, rows)
    if reduction == "none":
        return nll.view(targets.shape)
    total = nll.sum()
    return total if reduction == "sum" else total / (targets != IGNORED).sum().clamp(min=1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _capped(z: Tensor, soft_cap: float) -> Tensor:
    """The logits, which may take the place of z."""
    z = z.to(_wide(z))
    return z.div_(soft_cap).tanh_().mul_(soft_cap) if soft_cap else z


def _fused(name: str, logits: Tensor, grid: tuple[int, ...], rows: tuple[Tensor, ...], soft_cap: float) -> None:
    """The kernel of that name on a chunk of logits, in one pass where the lines below take several."""
    from exgate.ops import triton_cross_entropy

    constants = {"V": logits.shape[1], "CAPPED": soft_cap != 0, "IGNORED": IGNORED, "BLOCK": BLOCK, "warps": 8}
    gpu.launch(getattr(triton_cross_entropy, name), grid, logits, *rows, soft_cap, **constants)


def _plain(x: Tensor, weight: Tensor, targets: Tensor, soft_cap: float, kind: torch.dtype, rows: int):
    """All logits at once: the definition, which can be differentiated again and transformed by `torch.func`."""
    z = (x.to(kind) @ weight.to(kind).T).to(_wide(x))
    z = soft_cap * torch.tanh(z / soft_cap) if soft_cap else z
    return F.cross_entropy(z, targets, ignore_index=IGNORED, reduction="none"), None


def _check(targets: Tensor, vocabulary: int) -> None:
    if targets.device.type != "cpu" or not len(targets):
        return
    low, high = targets.masked_fill(targets == IGNORED, 0).aminmax()
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"cross_entropy: targets go from {int(low)} to {int(high)}, but the vocabulary has {vocabulary} entries: "
            f"they should be in 0 ... {vocabulary - 1}, or {IGNORED} to be ignored. Is it the model's own tokenizer?"
        )


def forward_chunks(
    x: Tensor, weight: Tensor, targets: Tensor, soft_cap: float, kind: torch.dtype, rows: int
) -> tuple[Tensor, Tensor]:
    """nll (N,), 0 where ignored, and the logarithm of the denominator (N,)."""
    _check(targets, weight.shape[0])
    with torch.autocast(x.device.type, enabled=False):
        head = weight.to(kind)
        nll = torch.empty(len(x), device=x.device, dtype=_wide(x))
        lse = torch.empty_like(nll)
        for begin in range(0, len(x), rows):
            part = slice(begin, begin + rows)
            logits = product(x[part].to(kind), head)
            if gpu.refuses(logits) is None:
                _fused("losses", logits, (len(logits),), (targets[part], nll[part], lse[part]), soft_cap)
                continue
            logits = _capped(logits, soft_cap)
            counts = targets[part] != IGNORED
            lse[part] = logits.logsumexp(-1)
            picked = logits.gather(1, targets[part].where(counts, 0)[:, None])[:, 0]
            nll[part] = torch.where(counts, lse[part] - picked, 0.0)
        return nll, lse


def backward_chunks(
    grad: Tensor, x: Tensor, weight: Tensor, targets: Tensor, lse: Tensor, soft_cap: float, kind: torch.dtype, rows: int
) -> tuple[Tensor, Tensor]:
    """Gradients of x (N, D) and weight (V, D), the latter summed over chunks in float32."""
    with torch.autocast(x.device.type, enabled=False):
        head = weight.to(kind)
        dx = torch.empty_like(x)
        dw = torch.zeros(weight.shape, device=weight.device, dtype=_wide(weight))
        for begin in range(0, len(x), rows):
            part = slice(begin, begin + rows)
            inputs, counts = x[part].to(kind), targets[part] != IGNORED
            d = product(inputs, head)
            if gpu.refuses(d) is None:
                grid = len(d), -(-d.shape[1] // BLOCK)
                _fused("gradients", d, grid, (targets[part], lse[part], grad[part].contiguous()), soft_cap)
            else:
                logits = _capped(d, soft_cap)
                slope = (logits / soft_cap).square_().neg_().add_(1) if soft_cap else None
                d = logits.sub_(lse[part, None]).exp_()
                d.scatter_add_(1, targets[part].where(counts, 0)[:, None], -torch.ones_like(d[:, :1]))
                d *= torch.where(counts, grad[part], 0.0)[:, None]
                if slope is not None:
                    d *= slope
                d = d.to(kind)
            dx[part] = d @ head
            dw += d.T @ inputs
        return dx, dw.to(weight.dtype)


_forward = torch.library.custom_op("exgate::cross_entropy", forward_chunks, mutates_args=())
_backward = once(torch.library.custom_op("exgate::cross_entropy_backward", backward_chunks, mutates_args=()))


@_forward.register_fake
def _(x, weight, targets, soft_cap, kind, rows):
    nll = x.new_empty(x.shape[0], dtype=_wide(x))
    return nll, torch.empty_like(nll)


@_backward.register_fake
def _(grad, x, weight, targets, lse, soft_cap, kind, rows):
    return torch.empty_like(x), torch.empty_like(weight)


def _keep(ctx, inputs, output) -> None:
    x, weight, targets, *ctx.options = inputs
    ctx.save_for_backward(x, weight, targets, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grad, _):
    x, weight, targets, lse = ctx.saved_tensors
    return *_backward(grad, x, weight, targets, lse, *ctx.options), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
