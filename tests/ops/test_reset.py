"""Lengths, cumulative lengths and PackedSequence to reset, and back."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from exgate.ops.reset import from_cu_seqlens, from_lengths, from_packed, to_cu_seqlens, to_lengths, to_packed


def test_lengths_there_and_back():
    reset = from_lengths([3, 1, 4])
    assert reset.int().tolist() == [[1, 0, 0, 1, 1, 0, 0, 0]]
    assert to_lengths(reset).tolist() == [3, 1, 4]
    assert to_cu_seqlens(reset).tolist() == [0, 3, 4, 8]
    assert to_cu_seqlens(reset).dtype == torch.int32
    assert torch.equal(from_cu_seqlens(torch.tensor([0, 3, 4, 8])), reset)


def test_the_first_step_begins_a_document_even_if_unmarked():
    reset = torch.tensor([False, False, True])
    assert to_lengths(reset).tolist() == [2, 1]


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_there_and_back(enforce_sorted):
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    documents = [torch.randn(n, 2, requires_grad=True) for n in lengths]
    packed = pack_sequence(documents, enforce_sorted=enforce_sorted)
    x, reset = from_packed(packed)
    assert torch.equal(x[0], torch.cat(documents))
    assert to_lengths(reset).tolist() == lengths
    again = to_packed(x * 2, packed)
    padded, found = pad_packed_sequence(again, batch_first=True)
    assert found.tolist() == lengths
    for row, document in zip(padded, documents, strict=True):
        assert torch.equal(row[: len(document)], document * 2)
    again.data.sum().backward()
    assert all(torch.equal(d.grad, torch.full_like(d, 2.0)) for d in documents)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: from_lengths([3, 0]), "whole numbers >= 1, one or more"),
        (lambda: from_lengths([]), "whole numbers >= 1, one or more"),
        (lambda: from_cu_seqlens([1, 4]), "begin with 0"),
        (lambda: to_lengths(torch.zeros(2, 3, dtype=torch.bool)), "convert them one by one"),
        (lambda: to_packed(torch.randn(1, 3, 2), pack_sequence([torch.randn(4, 2)])), "should be (1, 4, ...)"),
    ],
)
def test_errors(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value)
