"""Prompts in pieces: the pieces cover each prompt once, memory stays bounded, and the result is that of the whole."""

import pytest
import torch

from exgate.generate.prefill import pieces, prefill, split
from exgate.models import llama, lstm, xlstm, xlstm_7b
from exgate.ops.state import flatten, join

MODELS = {
    "xlstm": lambda: xlstm.build(xlstm.Config(vocab_size=17, dim=16, blocks=2, heads=2, pattern="ms")),
    "xlstm_7b": lambda: xlstm_7b.build(
        xlstm_7b.Config(vocab_size=17, dim=16, blocks=1, heads=2, qk_dim=8, v_dim=16, ffn_dim=24)
    ),
    "llama": lambda: llama.build(llama.Config(vocab_size=17, dim=16, blocks=2, heads=2)),
    "hybrid": lambda: xlstm.build(xlstm.Config(vocab_size=17, dim=16, blocks=2, heads=2, pattern="ma")),
    "lstm": lambda: lstm.build(lstm.Config(vocab_size=17, dim=16, layers=2)),
}


def prompts(*lengths: int) -> list[torch.Tensor]:
    return [torch.randint(0, 17, (length,)) for length in lengths]


@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 512])
def test_pieces_cover_each_length_and_depend_on_it_alone(chunk):
    lengths = [0, 1, 2, 5, 8, 9, 31, 40, 7]
    together: list[list[int]] = [[] for _ in lengths]
    calls = list(pieces(lengths, chunk))
    for size, rows in calls:
        assert size <= chunk
        assert rows
        for row in rows:
            together[row].append(size)
    assert [sum(sizes) for sizes in together] == lengths
    for row, length in enumerate(lengths):
        assert [size for size, _ in pieces([length], chunk)] == together[row]
    assert len(calls) <= max(lengths) // chunk + chunk.bit_length()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [1, 5, 16, 512])
def test_in_pieces_is_as_a_whole(name, chunk):
    model = MODELS[name]().eval()
    rows = prompts(1, 3, 3, 16, 17, 40)
    with torch.inference_mode():
        logits, states = prefill(model, rows, [None] * len(rows), chunk=chunk)
        for row, prompt in enumerate(rows):
            whole, state = model(prompt[None])
            torch.testing.assert_close(logits[row], whole[0, -1], rtol=1e-4, atol=1e-4)
            # What grows has zeros in front where the row was fed beside a longer one.
            for found, tensor in flatten(join([states[row], state])).values():
                torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-4)


def test_states_that_come_before_are_continued_and_not_changed():
    model = MODELS["xlstm"]().eval()
    first, second = prompts(6, 9), prompts(4, 11)
    with torch.inference_mode():
        _, states = prefill(model, first, [None, None])
        before = {name: tensor.clone() for name, tensor in flatten(states[0]).items()}
        # One row goes on, one begins: both in one call.
        logits, _ = prefill(model, second, [states[0], None], chunk=4)
        torch.testing.assert_close(logits[0], model(torch.cat([first[0], second[0]])[None])[0][0, -1])
        torch.testing.assert_close(logits[1], model(second[1][None])[0][0, -1])
        for name, tensor in flatten(states[0]).items():
            assert torch.equal(tensor, before[name])


def test_a_long_prompt_is_fed_in_bounded_pieces():
    """20,000 tokens never meet the model together, and the vocabulary's logits are computed for one of them only."""
    model = MODELS["lstm"]().eval()
    hidden, logits = [], []
    model.hidden = lambda tokens, state=None, *, inner=model.hidden, reset=None: (
        hidden.append(tokens.shape[1]) or inner(tokens, state)
    )
    model.logits = lambda x, *, inner=model.logits: logits.append(x.shape[1]) or inner(x)
    with torch.inference_mode():
        prefill(model, prompts(20_000), [None], chunk=512)
    assert max(hidden) == 512
    assert sum(hidden) == 20_000
    assert logits == [1]


def test_join_is_the_way_back_from_split():
    model = MODELS["xlstm"]()
    _, state = model(torch.randint(0, 17, (3, 5)))
    again = join(split(state, 3))
    assert type(again) is type(state)
    for name, tensor in flatten(state).items():
        assert torch.equal(flatten(again)[name], tensor)
