"""The two layers of RWKV-4, which mix each input with the one before it: over time, and over channels."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from exgate import ops
from exgate.layers.init import orthogonal_
from exgate.layers.linear import Linear
from exgate.layers.slstm import split_state
from exgate.ops import ConvState
from exgate.ops.dispatch import check_shape, state_type
from exgate.ops.state import State


class TimeMix(nn.Module):
    r"""RWKV-4's time mixing (Peng et al. 2023, arXiv:2305.13048): its attention, as a recurrence.

    $k, v, r = W_k x^{(k)}, W_v x^{(v)}, W_r x^{(r)}$ with $x^{(g)}_t = \mu_g x_t + (1 - \mu_g) x_{t-1}$, then
    $y = W_o (\sigma(r) \odot \mathrm{wkv}(k, v, e^{decay}, bonus))$, see `exgate.ops.wkv`.

    Args:
        dim: width of input and output.
        block, blocks: place among the model's blocks, on which the initial mixtures and decays depend.
    """

    decayed = ("mix_k", "mix_v", "mix_r", "decay", "bonus")  # with weight decay, as every `weight`

    def __init__(self, dim: int, *, block: int = 0, blocks: int = 1, device=None, dtype=None) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.block, self.blocks = dim, block, blocks
        self.mix_k = nn.Parameter(torch.empty(dim, **where))
        self.mix_v = nn.Parameter(torch.empty(dim, **where))
        self.mix_r = nn.Parameter(torch.empty(dim, **where))
        self.decay = nn.Parameter(torch.empty(dim, **where))
        self.bonus = nn.Parameter(torch.empty(dim, **where))
        self.key = Linear(dim, dim, bias=False, **where)
        self.value = Linear(dim, dim, bias=False, **where)
        self.receptance = Linear(dim, dim, bias=False, **where)
        self.out = Linear(dim, dim, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W_k, W_r and W_o 0, W_v orthogonal; the deeper the block, the more of x_t and the longer the memory."""
        for linear in (self.key, self.receptance, self.out):
            nn.init.zeros_(linear.weight)
        orthogonal_(self.value.weight)
        depth = self.block / max(self.blocks - 1, 1)
        ramp_mix_(self.mix_k, 1 - self.block / self.blocks)
        ramp_mix_(self.mix_v, 1 - self.block / self.blocks).add_(0.3 * depth)
        ramp_mix_(self.mix_r, 0.5 - 0.5 * self.block / self.blocks)
        place = torch.linspace(0, 1, self.dim, device=self.decay.device)
        self.decay.copy_(8 * place ** (0.7 + 1.3 * depth) - 5)
        zigzag = (torch.arange(self.dim, device=self.bonus.device) + 1) % 3 - 1
        self.bonus.copy_(math.log(0.3) + 0.5 * zigzag)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state: (ConvState, WKVState)."""
        before, cell = split_state("TimeMix", state)
        last, before = shift("TimeMix", x, before, reset)
        change = x - last
        k = self.key(last + change * self.mix_k)
        v = self.value(last + change * self.mix_v)
        r = self.receptance(last + change * self.mix_r)
        w = self.decay.to(torch.promote_types(self.decay.dtype, torch.float32)).exp()
        y, cell = ops.wkv(k, v, w, self.bonus, cell, reset=reset)
        return self.out(r.sigmoid() * y), (before, cell)

    def extra_repr(self) -> str:
        return f"{self.dim}"


class ChannelMix(nn.Module):
    r"""RWKV-4's channel mixing (Peng et al. 2023, arXiv:2305.13048): its feed-forward layer.

    $y = \sigma(W_r x^{(r)}) \odot W_v \max(W_k x^{(k)}, 0)^2$ with $x^{(g)}_t = \mu_g x_t + (1 - \mu_g) x_{t-1}$.

    Args:
        dim: width of input and output.
        hidden: width between; None is 4 dim.
        block, blocks: place among the model's blocks, on which the initial mixtures depend.
    """

    decayed = ("mix_k", "mix_r")

    def __init__(
        self, dim: int, hidden: int | None = None, *, block: int = 0, blocks: int = 1, device=None, dtype=None
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.hidden, self.block, self.blocks = dim, 4 * dim if hidden is None else hidden, block, blocks
        self.mix_k = nn.Parameter(torch.empty(dim, **where))
        self.mix_r = nn.Parameter(torch.empty(dim, **where))
        self.key = Linear(dim, self.hidden, bias=False, **where)
        self.value = Linear(self.hidden, dim, bias=False, **where)
        self.receptance = Linear(dim, dim, bias=False, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_v and W_r 0, W_k orthogonal and sqrt(hidden / dim) large."""
        for linear in (self.value, self.receptance):
            nn.init.zeros_(linear.weight)
        orthogonal_(self.key.weight, max(self.hidden / self.dim, 1) ** 0.5)
        ramp_mix_(self.mix_k, 1 - self.block / self.blocks)
        ramp_mix_(self.mix_r, 1 - self.block / self.blocks)

    def forward(
        self, x: Tensor, state: ConvState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, ConvState]:
        """x (B, T, dim), state x (B, 1, dim), reset (B, T) -> (B, T, dim) and the state."""
        last, state = shift("ChannelMix", x, state, reset)
        change = x - last
        k = self.key(last + change * self.mix_k)
        r = self.receptance(last + change * self.mix_r)
        return r.sigmoid() * self.value(k.relu().square()), state

    def extra_repr(self) -> str:
        return f"{self.dim}, hidden={self.hidden}"


def shift(layer: str, x: Tensor, state: ConvState | None, reset: Tensor | None) -> tuple[Tensor, ConvState]:
    """The input of the step before, (B, T, D) in x's type, zero where a document begins; and the last input."""
    batch, _, dim = x.shape
    if state is None:
        before = x.new_zeros(batch, 1, dim)
    else:
        check_shape(layer, "the state's x", state.x, "B 1 D", {"B": batch, "D": dim}, "x")
        before = state.x.to(x.dtype)
    last = torch.cat([before, x[:, :-1]], 1)
    last = last if reset is None else last.masked_fill(reset[..., None], 0.0)
    return last, ConvState(x[:, -1:].to(state_type(x), copy=True))


@torch.no_grad()
def ramp_mix_(mix: Tensor, power: float) -> Tensor:
    """The share of x_t in each channel d of D: (d / D)^power."""
    return mix.copy_((torch.arange(len(mix), device=mix.device) / len(mix)) ** power)
