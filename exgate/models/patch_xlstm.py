"""Forecasting with a stack of xLSTM blocks over patches of time: any horizon, missing values, covariates, a state."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.init import small_
from exgate.layers.linear import Embedding, Linear
from exgate.layers.norm import LayerNorm
from exgate.layers.series import Scale, scale
from exgate.layers.stack import reset_parameters
from exgate.models import fields, xlstm
from exgate.models.lm import layout, materialise
from exgate.models.ridge import PatchRidge
from exgate.ops.state import State, map_state

SMALL = 0.1  # share of its usual size with which the head begins, where it adds to a linear forecast


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        patch: P, steps that are read and forecast at a time.
        channels: C, the series that are read together; 1: each alone, all by the same weights.
        quantiles: levels of the forecast, rising.
        past, future: numeric covariates of each step: those that are known up to now, and those that are known ahead.
        static: numeric covariates of each row; categories: how many values each of its categorical ones has,
            0 among them: not known, which starts as nothing.
        dim, blocks, heads, pattern, dropout, conv_kernel: of the blocks, as in `exgate.models.xlstm`; over patches of
            time. "a" (attention) has no place here: its state grows.
        hidden: width of the maps between patches and blocks; None is 2 dim.
        memory: patches that a linear forecast reads, to which the blocks add; 0: there is none. leads: patches that it
            forecasts at a time.
    Raises:
        ValueError: quantiles are not between 0 and 1 and rising, the pattern has other letters, or memory or leads are
            too small.
    """

    patch: int = 16
    channels: int = 1
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    past: int = 0
    future: int = 0
    static: int = 0
    categories: tuple[int, ...] = ()
    dim: int = 64
    blocks: int = 2
    heads: int = 4
    pattern: str = "s"
    dropout: float = 0.0
    conv_kernel: int = 4
    hidden: int | None = None
    memory: int = 0
    leads: int = 1

    def __post_init__(self) -> None:
        if self.memory < 0 or self.leads < 1:
            raise ValueError(
                f"patch_xlstm: memory={self.memory} should be at least 0, and leads={self.leads} at least 1."
            )
        fields.check(self)
        layout(self.pattern, self.blocks, "ms")
        levels = (0.0, *self.quantiles, 1.0)
        if not self.quantiles or any(low >= high for low, high in itertools.pairwise(levels)):
            raise ValueError(
                f"patch_xlstm: quantiles are {self.quantiles}; they should rise and lie between 0 and 1, as (0.1, 0.5)."
            )


class PatchState(NamedTuple):
    """What a model has read of each row: its scale, and the states of the blocks and of the linear forecast.

    `stack` is None where nothing but the scale is known.
    """

    scale: Scale
    stack: State


class Covariates(NamedTuple):
    """What else is known of each row; None where the model has no such covariates.

    Args:
        past: (B, T, past), NaN where missing.
        future: (B, T + P, future), of the steps that are read and of the patch after them.
        static: (B, static), NaN where missing; categories: (B, categories) whole numbers.
    """

    past: Tensor | None = None
    future: Tensor | None = None
    static: Tensor | None = None
    categories: Tensor | None = None


class PatchXLSTM(nn.Module):
    r"""Reads a series patch by patch, and forecasts at each patch the quantiles of the next one.

    With x standardised, $p_j = [x, \mathrm{known}(x), \mathrm{covariates}]$ of patch j and covariates of patch j + 1
    that are known ahead, $u = \mathrm{blocks}(\mathrm{in}(p) + W_s s)$ over j, $y_{j+1} = \mathrm{sorted}(l_{j+1} +
    \mathrm{out}(\mathrm{norm}(u_j)))$ scaled back. in and out are $W_2\,\mathrm{relu}(W_1 x) + W_3 x$; s are static
    covariates; $l_{j+1}$ is a linear forecast of each series by itself (`exgate.models.ridge.PatchRidge`), where there
    is one: it starts as the last value, can be found in closed form, and is learnt further with all else.

    Missing values are zeros that are marked as missing. So is the future: a horizon of n patches is n - 1 more patches
    that are wholly missing, which cost no more than any other patches and need no forecast that is fed back. Rows may
    begin with missing patches (series of unequal length): the state is empty until the first value.

    The state has the scale, which is that of what was read first. Later calls go on with it, so that a series may be
    read in one call or in many.

    The design is that of patched forecasters: instance normalisation, patches with a mask, quantile heads (see Auer et
    al. 2025, arXiv:2505.23719, which this does not claim to repeat).
    """

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        width = 2 * config.channels + 2 * config.past + 2 * config.future
        hidden = 2 * config.dim if config.hidden is None else config.hidden
        blocks = xlstm.Blocks(
            dim=config.dim, blocks=config.blocks, heads=config.heads, pattern=config.pattern, dropout=config.dropout,
            conv_kernel=config.conv_kernel,
        )  # fmt: skip
        self.into = Bent(config.patch * width, hidden, config.dim, **where)
        self.static: Any = Linear(2 * config.static, config.dim, bias=False, **where) if config.static else None
        self.categories = nn.ModuleList(Embedding(size, config.dim, **where) for size in config.categories)
        self.stack = xlstm.stack(blocks, **where)
        self.norm = LayerNorm(config.dim, eps=blocks.norm_eps, offset=True, **where)
        memory, leads = config.memory * config.patch, config.leads * config.patch
        self.base = PatchRidge(config.patch, memory, leads, **where) if memory else None
        self.out = Bent(config.dim, hidden, config.patch * config.channels * len(config.quantiles), **where)

    def reset_parameters(self) -> None:
        for module in (self.into, self.stack, self.norm, self.out, self.base):
            if module is not None:
                reset_parameters(module)
        if self.static is not None:
            small_(self.static.weight, self.static.in_features)
        if self.base is not None:
            for linear in (self.out.down, self.out.straight):
                linear.weight.data.mul_(SMALL)
        for table in self.categories:
            assert isinstance(table, Embedding)
            small_(table.weight, self.config.dim)
            if not table.weight.is_meta:
                nn.init.zeros_(table.weight.data[0])

    def forward(
        self, x: Tensor, state: PatchState | None = None, known: Covariates | None = None
    ) -> tuple[Tensor, PatchState]:
        """What each patch says of the next one.

        Args:
            x: (B, T, C) in any units, NaN where missing; T is a multiple of P.
            state: of what was read before; None starts, with the scale of x.
            known: covariates of these rows.
        Returns:
            y (B, T, C, Q) in the units of x, rising in Q: y[:, t] is the forecast of step t + P. And the state.
        Raises:
            ValueError: a shape is not as said above.
        """
        known = Covariates() if known is None else known
        self._check(x, known)
        own = scale(x, eps=0.0) if state is None else state.scale
        x = own.apply(x)
        patches, empty = self._patches(x, known)
        u = self.into(patches)
        if self.static is not None and known.static is not None:
            u = u + self.static(_marked(known.static))[:, None]
        for place, table in enumerate(self.categories):
            assert known.categories is not None
            u = u + table(known.categories[:, place])[:, None]
        # Empty patches before the first value leave no trace.
        before, linear = (None, None) if state is None or state.stack is None else state.stack
        reset = F.pad(empty[:, :-1].cummin(1).values, (1, 0)) & ~empty if before is None else None
        u, stack = self.stack(u, before, reset=reset)
        y = self.out(self.norm(u)).unflatten(-1, (self.config.patch, self.config.channels, -1)).flatten(1, 2)
        if self.base is not None:
            base, linear = self.base(x.mT.flatten(0, 1), map_state(lambda part: part.flatten(0, 1), linear))
            linear = map_state(lambda part: part.unflatten(0, (len(x), -1)), linear)  # rows first, as all states
            y = y + base.unflatten(0, (len(x), -1)).mT[..., None]
        y = y.sort(-1).values
        return own._replace(mean=own.mean[..., None], deviation=own.deviation[..., None]).invert(y), PatchState(
            own, (stack, linear)
        )

    def forecast(
        self, x: Tensor, horizon: int, state: PatchState | None = None, known: Covariates | None = None
    ) -> tuple[Tensor, PatchState]:
        """Quantiles (B, H, C, Q) of the `horizon` steps after x (B, T, C), and the state after x.

        T need not be a multiple of P where there is no state yet: the first patch is then filled up with missing ones.

        Args:
            x, state: as in `forward`.
            known: covariates; `future` (B, T + H, future), up to the end of the horizon.
        Raises:
            ValueError: the horizon is not at least 1, or T is not a multiple of P and there is a state.
        """
        config, known = self.config, Covariates() if known is None else known
        if horizon < 1:
            raise ValueError(f"PatchXLSTM: horizon is {horizon}; it should be at least 1.")
        front = -x.shape[1] % config.patch
        if front and state is not None:
            raise ValueError(
                f"PatchXLSTM: x has T={x.shape[1]} steps after a state; they should be whole patches of "
                f"P={config.patch}. Keep the rest until the patch is full, or begin without a state."
            )
        more = math.ceil(horizon / config.patch) * config.patch - config.patch
        read = x.shape[1] + front

        def padded(values: Tensor | None, end: int) -> Tensor | None:
            return None if values is None else F.pad(values, (0, 0, front, max(0, end)), value=math.nan)

        past, future = padded(known.past, 0), padded(known.future, more + config.patch - horizon)
        here = known._replace(past=past, future=None if future is None else future[:, : read + config.patch])
        whole = F.pad(x, (0, 0, front, 0), value=math.nan)
        y, after = self(whole, state, here)
        parts = [y[:, -config.patch :]]
        if more:
            ahead = known._replace(
                past=None if past is None else past.new_full((len(x), more, past.shape[2]), math.nan),
                future=None if future is None else future[:, read:],
            )
            parts.append(self(whole.new_full((len(x), more, whole.shape[2]), math.nan), after, ahead)[0])
        return torch.cat(parts, 1)[:, :horizon], after

    def loss(self, x: Tensor, targets: Tensor, known: Covariates | None = None) -> Tensor:
        r"""The mean quantile loss $2\,(y - \hat y_q)(q - 1[y < \hat y_q])$, in deviations of each row.

        Twice, so that at the median it is the absolute error.

        Args:
            x: (B, T, C), what is read; NaN where missing or hidden.
            targets: (B, T, C), what is `P` steps later at each step; NaN is not scored.
            known: as in `forward`.
        """
        y, state = self(x, None, known)
        error = ((targets[..., None] - y) / state.scale.deviation[..., None]).where(~targets[..., None].isnan(), 0)
        levels = error.new_tensor(self.config.quantiles)
        scored = torch.maximum(levels * error, (levels - 1) * error)
        return 2 * scored.sum() / ((~targets.isnan()).sum() * len(levels)).clamp_min(1)

    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _patches(self, x: Tensor, known: Covariates) -> tuple[Tensor, Tensor]:
        """What the blocks read (B, T / P, P * width), and which patches have no value (B, T / P)."""
        patch, steps = self.config.patch, x.shape[1]
        parts = [_marked(x)]
        if known.past is not None:
            parts.append(_marked(known.past))
        if known.future is not None:
            ahead = known.future.nan_to_num(0.0)
            parts += [ahead[:, :steps], ahead[:, patch:]]
        empty = x.isnan().unflatten(1, (-1, patch)).flatten(2).all(2)
        return torch.cat(parts, -1).unflatten(1, (-1, patch)).flatten(2), empty

    def _check(self, x: Tensor, known: Covariates) -> None:
        config = self.config
        if x.dim() != 3 or x.shape[2] != config.channels or not x.shape[1] or x.shape[1] % config.patch:
            raise ValueError(
                f"PatchXLSTM: x has shape {tuple(x.shape)}; it should be (B, T, C) with C={config.channels} and T a "
                f"multiple of P={config.patch}."
            )
        rows, steps = x.shape[:2]
        wanted = {
            "past": (rows, steps, config.past), "future": (rows, steps + config.patch, config.future),
            "static": (rows, config.static), "categories": (rows, len(config.categories)),
        }  # fmt: skip
        for name, shape in wanted.items():
            values = getattr(known, name)
            if (tuple(values.shape) if values is not None else None) != (shape if shape[-1] else None):
                has = "not given" if values is None else f"of shape {tuple(values.shape)}"
                should = f"of shape {shape}" if shape[-1] else "not given: the model was built without"
                raise ValueError(f"PatchXLSTM: known.{name} is {has}; it should be {should}.")


class Bent(nn.Module):
    """W_2 relu(W_1 x) + W_3 x: a linear map that can bend."""

    def __init__(self, width: int, hidden: int, outs: int, *, device=None, dtype=None) -> None:
        super().__init__()
        self.up = Linear(width, hidden, device=device, dtype=dtype)
        self.down = Linear(hidden, outs, bias=False, device=device, dtype=dtype)
        self.straight = Linear(width, outs, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., outs)."""
        return self.down(F.relu(self.up(x))) + self.straight(x)

    def reset_parameters(self) -> None:
        for linear in (self.up, self.down, self.straight):
            linear.reset_parameters()


def _marked(x: Tensor) -> Tensor:
    """(..., N) with NaN -> (..., 2 N): zeros in their place, and which are known."""
    known = ~x.isnan()
    return torch.cat([x.nan_to_num(0.0), known.to(x.dtype)], -1)


def build(config: Config, *, device=None, dtype=None) -> PatchXLSTM:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    return materialise(PatchXLSTM(config, device="meta", dtype=dtype), device)
