"""Residual branches, stacks with and without checkpointing, two directions, and rows of unequal length."""

import itertools

import pytest
import torch
from torch import nn

from exgate.layers import FFN, Bidirectional, LayerNorm, LSTMLayer, MLSTMLayer, Residual, SLSTMLayer, Stack
from exgate.layers.stack import ragged, reverse, reverse_reset
from exgate.ops.state import flatten, map_state


def shaken(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return layer.double()


def layers():
    return {
        "lstm": shaken(LSTMLayer(6, heads=2)),
        "slstm": shaken(SLSTMLayer(6, heads=2)),
        "mlstm": shaken(MLSTMLayer(6, heads=2)),
        "stack": shaken(Stack([Residual(LayerNorm(6), SLSTMLayer(6, heads=3)), FFN(6, 8)])),
    }


def same(ours, theirs, tolerance=1e-10):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance)


def row_of(state, row):
    return map_state(lambda tensor: tensor[row : row + 1], state)


def test_residual_adds_and_drops():
    norm, layer, x = LayerNorm(6), LSTMLayer(6), torch.randn(2, 3, 6)
    branch = Residual(norm, layer, dropout=0.5)
    y = branch(x)[0] - x
    assert 0.2 < (y == 0).float().mean() < 0.8
    torch.testing.assert_close(branch.eval()(x)[0], x + layer(norm(x))[0])


def test_stack_refuses_a_state_of_another_depth():
    stack = Stack([FFN(4, 4), FFN(4, 4)])
    with pytest.raises(ValueError, match="Stack: state has 1 entries, but there are 2 layers"):
        stack(torch.randn(1, 2, 4), ((),))


def test_checkpointing_changes_nothing_but_memory():
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 4] = True
    blocks = [Residual(LayerNorm(6), layer, dropout=0.2) for layer in (SLSTMLayer(6, heads=2), MLSTMLayer(6, heads=2))]
    stack = shaken(Stack(blocks))
    before = map_state(
        lambda tensor: tensor.detach().requires_grad_(), stack(torch.randn(2, 3, 6, dtype=torch.float64))[1]
    )
    inputs = [*flatten(before).values(), *stack.parameters()]
    results, calls = [], []
    stack.layers[1].layer.register_forward_hook(lambda *_: calls.append(1))
    for stack.checkpoint in (False, True):
        torch.manual_seed(3)
        y, state = stack(x, before, reset=reset)
        total = y.square().sum() + sum(tensor.square().sum() for tensor in flatten(state).values())
        results.append((y, state, torch.autograd.grad(total, inputs, allow_unused=True)))
    for plain, checkpointed in zip(*results, strict=True):
        same(plain, checkpointed, 0.0)
    assert len(calls) == 3  # once, then once and once again
    with torch.no_grad():
        stack(x)
    assert len(calls) == 4


def test_reverse_within_lengths():
    x = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    assert reverse(x).tolist() == [[4, 3, 2, 1], [0, 0, 6, 5]]
    assert reverse(x, [4, 2]).tolist() == [[4, 3, 2, 1], [6, 5, 0, 0]]
    assert reverse(x[..., None], torch.tensor([1, 2])).tolist() == [[[1], [2], [3], [4]], [[6], [5], [0], [0]]]


def test_reset_of_the_reversed_sequence():
    # Documents of 2, 1 and 3 steps; backward they are 3, 1 and 2 steps long.
    reset = torch.tensor([[True, False, True, True, False, False]])
    assert reverse_reset(reset).int().tolist() == [[0, 0, 0, 1, 1, 0]]
    assert reverse_reset(torch.zeros(1, 4, dtype=torch.bool)).int().tolist() == [[0, 0, 0, 0]]
    # A row of 4 real steps, documents of 1 and 3; marks in the padding do not matter.
    padded = torch.tensor([[True, True, False, False, True, True]])
    assert reverse_reset(padded, [4]).int().tolist() == [[0, 0, 0, 1, 0, 0]]
    assert reverse_reset(None) is None


@pytest.mark.parametrize("name", layers())
def test_ragged_rows_are_each_row_alone(name):
    layer, lengths = layers()[name], [3, 7, 1, 7, 5]
    x = torch.randn(5, 8, 6, dtype=torch.float64)
    reset = torch.rand(5, 8) < 0.3
    _, before = layer(torch.randn(5, 3, 6, dtype=torch.float64))
    for start, marks in ((None, None), (before, None), (before, reset)):
        y, state = ragged(layer, x, torch.tensor(lengths), start, reset=marks)
        assert y.shape == (5, 8, 6)
        for row, length in enumerate(lengths):
            part = None if marks is None else marks[row : row + 1, :length]
            alone, after = layer(x[row : row + 1, :length], None if start is None else row_of(start, row), reset=part)
            same(y[row : row + 1, :length], alone)
            same(row_of(state, row), after)
            assert not y[row, length:].any()


@pytest.mark.parametrize("lengths", [[0, 3], [3, 5], [3], [[1, 2]]])
def test_ragged_refuses_wrong_lengths(lengths):
    with pytest.raises(ValueError, match="they should be 2 whole numbers from 1 to T=4"):
        ragged(LSTMLayer(3), torch.randn(2, 4, 3), lengths)


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("name", layers())
def test_two_directions(name, merge):
    ahead, behind = layers()[name], layers()[name]
    both, x = Bidirectional(ahead, behind, merge=merge), torch.randn(2, 6, 6, dtype=torch.float64)
    y, (last, first) = both(x)
    there, after = ahead(x)
    back, before = behind(x.flip(1))
    back = back.flip(1)
    torch.testing.assert_close(y, torch.cat([there, back], -1) if merge == "concat" else there + back)
    same(last, after)
    same(first, before)


@pytest.mark.parametrize("name", layers())
def test_two_directions_with_state_reset_and_lengths_are_documents_alone(name):
    ahead, behind = layers()[name], layers()[name]
    both, x = Bidirectional(ahead, behind), torch.randn(2, 9, 6, dtype=torch.float64)
    _, start = both(torch.randn(2, 4, 6, dtype=torch.float64))
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, [2, 3]] = True
    reset[1, 4] = True
    for lengths in (None, [9, 6]):
        y, (last, first) = both(x, start, reset=reset, lengths=lengths)
        ends = lengths or [9, 9]
        for row, cuts in enumerate(([0, 2, 3, ends[0]], [0, 4, ends[1]])):
            for begin, end in itertools.pairwise(cuts):
                part = x[row : row + 1, begin:end]
                # The forward state reaches the first document only, the backward state the last one only.
                there, after = ahead(part, row_of(start[0], row) if begin == 0 else None)
                back, before = behind(part.flip(1), row_of(start[1], row) if end == ends[row] else None)
                same(y[row : row + 1, begin:end], torch.cat([there, back.flip(1)], -1))
                if end == ends[row]:
                    same(row_of(last, row), after)
                if begin == 0:
                    same(row_of(first, row), before)


def test_bidirectional_errors_and_reset_parameters():
    with pytest.raises(ValueError, match="merge is 'mean'"):
        Bidirectional(LSTMLayer(3), LSTMLayer(3), merge="mean")
    both = Bidirectional(LSTMLayer(3), LSTMLayer(3))
    with pytest.raises(ValueError, match=r"state has 3 entries; it should be \(forward's, backward's\)"):
        both(torch.randn(1, 2, 3), (None, None, None))
    stack = Stack([Residual(nn.Identity(), both)])
    for weight in stack.parameters():
        nn.init.constant_(weight, torch.nan)
    stack.reset_parameters()
    assert all(weight.isfinite().all() for weight in stack.parameters())
