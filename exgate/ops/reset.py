"""From lengths, cumulative lengths and PackedSequence to `reset`, and back.

Documents of unequal length are laid one after the other in a single row (1, T), and `reset` (1, T) is True at the first
step of each: no padding, and one call. A document is at least one step long.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def from_lengths(lengths: Tensor | list[int]) -> Tensor:
    """Lengths (N,) of documents laid one after the other -> reset (1, sum of lengths)."""
    lengths = torch.as_tensor(lengths)
    if lengths.dim() != 1 or len(lengths) == 0 or bool((lengths < 1).any()):
        raise ValueError(
            f"from_lengths: lengths are {lengths.tolist()}; they should be whole numbers >= 1, one or more."
        )
    begins = torch.cumsum(lengths, 0) - lengths
    reset = torch.zeros(1, int(lengths.sum()), dtype=torch.bool, device=lengths.device)
    reset[0, begins] = True
    return reset


def to_lengths(reset: Tensor) -> Tensor:
    """reset (1, T) or (T,) -> lengths (N,). The first step begins a document whether it is marked or not."""
    cu_seqlens = to_cu_seqlens(reset)
    return cu_seqlens[1:] - cu_seqlens[:-1]


def from_cu_seqlens(cu_seqlens: Tensor | list[int]) -> Tensor:
    """Cumulative lengths (N+1,), 0 first and T last, as attention kernels take them -> reset (1, T)."""
    cu_seqlens = torch.as_tensor(cu_seqlens)
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2 or int(cu_seqlens[0]) != 0:
        raise ValueError(f"from_cu_seqlens: got {cu_seqlens.tolist()}; it should begin with 0 and end with T.")
    return from_lengths(cu_seqlens[1:] - cu_seqlens[:-1])


def to_cu_seqlens(reset: Tensor) -> Tensor:
    """reset (1, T) or (T,) -> cumulative lengths (N+1,) in int32. The first step begins a document in any case."""
    if reset.dim() == 2 and reset.shape[0] == 1:
        reset = reset[0]
    if reset.dim() != 1 or reset.dtype != torch.bool:
        raise ValueError(
            f"to_cu_seqlens: reset has shape {tuple(reset.shape)} and type {reset.dtype}; it should be (1, T), bool. "
            "Rows of a batch are separate streams: convert them one by one."
        )
    begins = reset.nonzero()[:, 0]
    if len(begins) == 0 or int(begins[0]) != 0:
        begins = torch.cat([begins.new_zeros(1), begins])
    return torch.cat([begins, begins.new_tensor([len(reset)])]).to(torch.int32)


def _document_order(batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in PackedSequence.data, document by document (longest first), and the documents' lengths."""
    rows = torch.arange(int(batch_sizes[0]))
    present = rows[:, None] < batch_sizes[None]  # (N, T): document n has a step t
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    return (offsets[None] + rows[:, None])[present], present.sum(1)


def from_packed(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """A PackedSequence -> its steps (1, T, ...) document by document in the caller's order, and reset (1, T)."""
    positions, lengths = _document_order(packed.batch_sizes)
    if packed.unsorted_indices is not None:
        order = packed.unsorted_indices.cpu()
        positions = torch.cat([positions.split(lengths.tolist())[n] for n in order.tolist()])
        lengths = lengths[order]
    return packed.data[positions.to(packed.data.device)][None], from_lengths(lengths).to(packed.data.device)


def to_packed(x: Tensor, like: PackedSequence) -> PackedSequence:
    """Steps (1, T, ...) in `from_packed`'s order -> a PackedSequence that is laid out as `like`."""
    if x.shape[:2] != (1, len(like.data)):
        raise ValueError(
            f"to_packed: x has shape {tuple(x.shape)}; it should be (1, {len(like.data)}, ...) like the packed data."
        )
    order, _ = from_packed(like._replace(data=torch.arange(len(like.data), device=like.data.device)))
    data = torch.empty_like(x[0])
    data = data.index_copy(0, order[0], x[0])
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)
