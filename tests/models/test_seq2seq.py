"""Sequence to sequence: what it learns, that rows are as if alone, how the decoder starts, saving."""

import itertools
import math

import pytest
import torch

from exgate.data.parallel import collate
from exgate.generate.beam import beam_search
from exgate.models import io, seq2seq
from exgate.ops.state import flatten, select

SMALL = {"source_vocab": 11, "target_vocab": 9, "dim": 16}
CONFIGS = {
    "lstm": seq2seq.Config(**SMALL),
    "deep, one way, reversed": seq2seq.Config(layers=2, hidden=24, bidirectional=False, reverse=True, **SMALL),
    "no attention": seq2seq.Config(attention=False, **SMALL),
    "no attention, one way": seq2seq.Config(attention=False, bidirectional=False, layers=2, **SMALL),
    "slstm": seq2seq.Config(encoder="slstm", decoder="slstm", bidirectional=False, **SMALL),
    "mlstm": seq2seq.Config(encoder="mlstm", decoder="mlstm", bidirectional=False, layers=2, **SMALL),
    "mixed, both ways, reversed": seq2seq.Config(encoder="slstm", decoder="mlstm", hidden=24, reverse=True, **SMALL),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
LENGTHS = torch.tensor([4, 7, 1, 7, 2])


def shaken(config):
    """A float64 model with no weight where it starts."""
    model = seq2seq.build(config, dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


def sample():
    return torch.randint(11, (5, 7)), torch.randint(9, (5, 6))


@every_config
def test_a_row_gets_what_it_gets_alone(config):
    # In float32 with the weights of a beginning: shaken ones make mLSTM's denominators small, and roundings large.
    for model, tolerance in ((shaken(config), 1e-9), (seq2seq.build(config), 1e-5)):
        source, tokens = sample()
        together = model(source, LENGTHS, tokens)
        assert together.shape == (5, 6, 9)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = model(source[row : row + 1, :length], None, tokens[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=tolerance, atol=tolerance)


@every_config
def test_padding_changes_nothing(config):
    model, (source, tokens) = shaken(config), sample()
    padding = torch.arange(7) >= LENGTHS[:, None]
    other = torch.cat([source.where(~padding, -100), torch.full((5, 3), 10**6)], 1)
    torch.testing.assert_close(model(source, LENGTHS, tokens), model(other, LENGTHS, tokens), rtol=1e-12, atol=1e-12)
    # The padding of targets comes after all that counts: it changes no other step, and the loss ignores it.
    targets = torch.randint(9, (5, 6)).masked_fill(torch.arange(6) >= 4, -100)
    changed = tokens.where(torch.arange(6) < 4, 0)
    losses = [model.loss(source, LENGTHS, given, targets) for given in (tokens, changed)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    short = model.loss(source, LENGTHS, tokens[:, :4], targets[:, :4])
    torch.testing.assert_close(losses[0], short, rtol=1e-12, atol=1e-12)


@every_config
def test_teacher_forcing_and_steps_are_the_same(config):
    model, (source, tokens) = shaken(config), sample()
    state = model.encode(source, LENGTHS)
    logits = []
    for t in range(6):
        now, state = model.step(tokens[:, t], state)
        logits.append(now)
        if config.attention:
            torch.testing.assert_close(state.weights.sum(1), torch.ones(5, dtype=torch.float64))
            assert (state.weights[torch.arange(7) >= LENGTHS[:, None]] == 0).all()
    torch.testing.assert_close(torch.stack(logits, 1), model(source, LENGTHS, tokens), rtol=1e-10, atol=1e-10)


@every_config
def test_loss_and_gradients(config):
    model, (source, tokens) = seq2seq.build(config), sample()
    targets = torch.randint(9, (5, 6))
    loss = model.loss(source, LENGTHS, tokens, targets)
    assert loss.item() == pytest.approx(math.log(9), abs=0.5)
    logits = model(source, LENGTHS, tokens)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    loss.backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    # The gates of mLSTM do not depend on their input before the first step; all else is learnt at once.
    assert not {name for name in without if "gate" not in name}


@every_config
def test_rows_of_the_state_can_be_chosen(config):
    model, (source, tokens) = shaken(config), sample()
    _, state = model.step(tokens[:, 0], model.encode(source, LENGTHS))
    rows = torch.tensor([3, 3, 0])
    assert all(len(tensor) == 5 for tensor in flatten(state).values())
    some, _ = model.step(tokens[rows, 1], select(state, rows))
    every, _ = model.step(tokens[:, 1], state)
    torch.testing.assert_close(some, every[rows], rtol=1e-10, atol=1e-10)


def test_the_decoder_starts_from_the_encoders_final_state():
    for cell in seq2seq.CELLS:
        config = seq2seq.Config(encoder=cell, decoder=cell, bidirectional=False, attention=False, **SMALL)
        model, (source, _) = shaken(config), sample()
        assert model.bridge is None
        _, ahead = model.encoder[0](model.source_embed(source[:1, :4]))
        ours = flatten(model.encode(source, LENGTHS).stack[0])
        for name, tensor in flatten(ahead).items():
            torch.testing.assert_close(ours[name][:1], tensor)
    both = shaken(CONFIGS["no attention"])
    assert both.bridge is not None
    assert not torch.equal(both.encode(torch.tensor([[1, 2, 3]])).output, both.encode(torch.tensor([[1, 2, 4]])).output)


def test_reversal_hands_the_source_back_in_its_own_order():
    config = seq2seq.Config(reverse=True, bidirectional=False, **SMALL)
    plain = seq2seq.build(seq2seq.Config(bidirectional=False, **SMALL), dtype=torch.float64)
    model, (source, _) = seq2seq.build(config, dtype=torch.float64), sample()
    model.load_state_dict(plain.state_dict())
    values, turned = model.encode(source).values, plain.encode(source.flip(1)).values
    assert values is not None
    assert turned is not None
    torch.testing.assert_close(values, turned.flip(1))


def test_copying_is_learnt_and_the_picture_is_a_diagonal():
    model = seq2seq.build(seq2seq.Config(source_vocab=10, target_vocab=10, dim=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def sample():
        rows = [torch.randint(1, 10, (length,)).tolist() for length in (3, 5) for _ in range(16)]
        return [(row, row) for row in rows]

    for _ in range(130):
        loss = model.loss(*collate(sample(), source_end=0, start=0, end=0))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1
    pairs = sample()
    batch = collate(pairs, source_end=0, start=0, end=0)
    found = beam_search(model, batch.source, batch.lengths, start=0, end=0, max_tokens=8, beam=3)
    assert sum(best[0].tokens == target for best, (_, target) in zip(found, pairs, strict=True)) >= 31
    looked = [best[0].attention[:-1].argmax(1).tolist() for best in found]
    on = sum(place == t for row in looked for t, place in enumerate(row))
    assert on >= 0.85 * sum(map(len, looked))


def test_reversing_is_learnt_without_attention():
    config = seq2seq.Config(source_vocab=6, target_vocab=6, dim=48, attention=False, bidirectional=False)
    model = seq2seq.build(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    every = [list(row) for row in itertools.product(range(1, 6), repeat=3)]
    batch = collate([(row, row[::-1]) for row in every], source_end=0, start=0, end=0)
    for _ in range(120):
        loss = model.loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = beam_search(model, batch.source, batch.lengths, start=0, end=0, max_tokens=5, beam=1)
    right = sum(best[0].tokens == row[::-1] for best, row in zip(found, every, strict=True))
    assert right >= 0.95 * len(every)


@every_config
def test_saved_and_loaded_it_is_the_same(config, tmp_path):
    model, (source, tokens) = shaken(config), sample()
    io.save(model, tmp_path)
    again = io.load(tmp_path)
    assert again.config == config
    assert torch.equal(again(source, LENGTHS, tokens), model(source, LENGTHS, tokens))


def test_dropout_is_for_training():
    model = seq2seq.build(seq2seq.Config(dropout=0.5, layers=2, **SMALL))
    source, tokens = sample()
    assert not torch.equal(model(source, LENGTHS, tokens), model(source, LENGTHS, tokens))
    model.eval()
    assert torch.equal(model(source, LENGTHS, tokens), model(source, LENGTHS, tokens))


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"decoder is 'gru'; it should be one of lstm, slstm, mlstm"):
        seq2seq.Config(decoder="gru", **SMALL)
    with pytest.raises(ValueError, match="layers is 0"):
        seq2seq.Config(layers=0, **SMALL)
    model, (source, tokens) = seq2seq.build(CONFIGS["lstm"]), sample()
    with pytest.raises(ValueError, match=r"source has shape \(5, 7\) and type torch.float32"):
        model(source.float(), LENGTHS, tokens)
    with pytest.raises(ValueError, match=r"lengths have shape \(4,\); they should be \(B,\) = \(5,\)"):
        model(source, LENGTHS[:4], tokens)
    with pytest.raises(ValueError, match=r"lengths are .*from 1 to T=7"):
        model(source, LENGTHS + 1, tokens)
    with pytest.raises(ValueError, match=r"tokens have shape \(4, 6\).*B=5"):
        model(source, LENGTHS, tokens[:4])
