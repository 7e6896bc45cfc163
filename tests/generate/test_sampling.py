"""`generate`: rows as if alone, stops and ends, breaks that leave no trace, and mistakes told."""

import pytest
import torch

from exgate.generate.logits import Sampler
from exgate.generate.sampling import generate
from exgate.ops.state import detach, flatten

CHOICES = {
    "greedy": {"temperature": 0.0},
    "sampled": {"seed": 11},
    "filtered": {"seed": 5, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3},
    "greedy, penalised": {"temperature": 0.0, "repetition_penalty": 1.5},
}


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (length,), generator=generator) for length in lengths]


def tokens(generation) -> list[list[int]]:
    return [row.tolist() for row in generation.tokens]


def by_hand(model, prompt: list[int], count: int, *, seed: int = 0, **options) -> list[int]:
    """One row by the definition: the whole sequence again for each token, no state."""
    sampler, random, row = Sampler(**options), torch.Generator().manual_seed(seed), list(prompt)
    model.eval()
    for _ in range(count):
        seen = torch.zeros(1, 272, dtype=torch.bool)
        seen[0, row] = True
        uniform = None if sampler.greedy else torch.rand(1, generator=random, dtype=torch.float64)
        with torch.no_grad():
            logits = model(torch.tensor([row]))[0][:, -1]
        row.append(int(sampler(logits, seen, uniform)))
    return row[len(prompt) :]


@pytest.mark.parametrize("choice", CHOICES)
def test_each_row_is_as_by_hand_and_as_alone(model, choice):
    rows, options = prompts(1, 7, 7, 30), CHOICES[choice]
    together = generate(model, rows, max_tokens=12, chunk=8, **options)
    assert together.finished == ["length"] * 4
    for number, row in enumerate(rows):
        own = options | ({"seed": options["seed"] + number} if "seed" in options else {})
        assert tokens(together)[number] == by_hand(model, row.tolist(), 12, **own)
        assert tokens(together)[number] == tokens(generate(model, [row], max_tokens=12, chunk=8, **own))[0]
    assert tokens(together) == tokens(generate(model, rows, max_tokens=12, **options)), "the chunk shows"


def test_the_context_and_the_seed_matter(model):
    """Else the tests of this file could not fail."""
    rows = prompts(7, 7, 30)
    greedy = tokens(generate(model, rows, max_tokens=12, temperature=0))
    assert len({tuple(row) for row in greedy}) == 3
    assert all(len(set(row)) > 2 for row in greedy)
    drawn = [tuple(tokens(generate(model, rows[:1], max_tokens=12, seed=seed))[0]) for seed in range(4)]
    assert len(set(drawn)) == 4


def test_a_list_of_seeds_and_a_tensor_of_prompts(model):
    batch = torch.stack(prompts(5)).expand(3, 5)
    first = generate(model, batch, max_tokens=9, seed=[4, 5, 4])
    assert tokens(first)[0] == tokens(first)[2] != tokens(first)[1]
    assert tokens(first)[:2] == tokens(generate(model, batch[:2].tolist(), max_tokens=9, seed=4))


def test_without_a_seed_torch_decides(model):
    row = prompts(5)
    torch.manual_seed(1)
    drawn = [tokens(generate(model, row, max_tokens=9)) for _ in range(2)]
    torch.manual_seed(1)
    assert tokens(generate(model, row, max_tokens=9)) == drawn[0] != drawn[1]


def test_a_prompt_that_is_there_several_times_is_read_once(model, monkeypatch):
    read, inner = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda t, state=None, *, reset=None: read.append(t.numel()) or inner(t, state))
    generate(model, torch.stack(prompts(64)).expand(5, 64), max_tokens=0)
    assert sum(read) == 64


@pytest.mark.parametrize("choice", CHOICES)
def test_a_break_leaves_no_trace(model, choice):
    rows, options = prompts(2, 9, 20), CHOICES[choice]
    whole = generate(model, rows, max_tokens=15, **options)
    later = {name: value for name, value in options.items() if name != "seed"}
    for first in (0, 1, 6, 14):
        start = generate(model, rows, max_tokens=first, **options)
        rest = generate(model, session=start.session, max_tokens=15 - first, **later)
        assert [a + b for a, b in zip(tokens(start), tokens(rest), strict=True)] == tokens(whole)
        assert rest.session.fed.tolist() == [17, 24, 35]
        assert torch.equal(rest.session.last, whole.session.last)
        for name, tensor in flatten(rest.state).items():
            torch.testing.assert_close(tensor, flatten(whole.state)[name])


def test_a_session_goes_on_with_new_prompts(model):
    rows, more = prompts(4, 9), [[], [7, 8]]
    start = generate(model, rows, max_tokens=5, temperature=0)
    rest = generate(model, more, session=start.session, max_tokens=6, temperature=0)
    for number in range(2):
        text = rows[number].tolist() + tokens(start)[number] + more[number]
        assert tokens(rest)[number] == by_hand(model, text, 6, temperature=0)


def test_a_state_is_continued_and_not_written_to(model):
    first, second = prompts(6, 8)
    model.eval()
    with torch.no_grad():
        _, state = model(first[None])
    copy = {name: tensor.clone() for name, tensor in flatten(state).items()}
    rest = generate(model, [second], state=detach(state), max_tokens=6, temperature=0)
    assert tokens(rest)[0] == by_hand(model, [*first.tolist(), *second.tolist()], 6, temperature=0)
    assert all(torch.equal(tensor, copy[name]) for name, tensor in flatten(state).items())


def test_the_end_token_ends_a_row_and_the_others_go_on(model):
    rows = prompts(3, 10, 25)
    free = tokens(generate(model, rows, max_tokens=14, temperature=0))
    end = next(token for token in free[1][2:8] if token not in free[0] + free[2] and token not in free[1][:2])
    ended = generate(model, rows, max_tokens=14, temperature=0, end=end)
    assert ended.finished == ["length", "end", "length"]
    assert tokens(ended) == [free[0], free[1][: free[1].index(end)], free[2]]
    # The state has read the end token too: whoever goes on does not have to know how the row ended.
    assert ended.session.last[1] == end
    assert ended.session.fed.tolist() == [17, 10 + free[1].index(end) + 1, 39]
    after = generate(model, [[], [9], []], session=ended.session, max_tokens=3, temperature=0)
    text = rows[1].tolist() + free[1][: free[1].index(end) + 1] + [9]
    assert tokens(after)[1] == by_hand(model, text, 3, temperature=0)


def test_stop_sequences_end_a_row_and_are_not_given_out(model):
    rows, told = prompts(3, 10), []
    free = tokens(generate(model, rows, max_tokens=14, temperature=0))
    stop = free[1][5:8]
    at = next(i for i in range(12) if free[1][i : i + 3] == stop)
    stopped = generate(
        model, rows, max_tokens=14, temperature=0, stop=[stop], on_token=lambda row, token: told.append((row, token))
    )
    assert stopped.finished == ["length", "stop"]
    assert tokens(stopped) == [free[0], free[1][:at]]
    for row in range(2):
        assert [token for number, token in told if number == row] == tokens(stopped)[row]


def test_a_stop_sequence_across_a_break_is_seen(model):
    rows = prompts(10)
    free = tokens(generate(model, rows, max_tokens=14, temperature=0))[0]
    stop = free[5:8]
    start = generate(model, rows, max_tokens=6, temperature=0, stop=[stop])
    assert tokens(start)[0] == free[:6]
    assert start.session.held == [free[5:6]]
    rest = generate(model, session=start.session, max_tokens=8, temperature=0, stop=[stop])
    assert rest.finished == ["stop"]
    assert tokens(rest) == [[]]
    # A prompt in between breaks the sequence.
    start = generate(model, rows, max_tokens=6, temperature=0, stop=[[free[5], free[6]]])
    apart = generate(model, [[3]], session=start.session, max_tokens=1, temperature=0, stop=[[free[5], free[6]]])
    assert start.session.held == [[free[5]]]
    assert apart.finished == ["length"]
    at_end = generate(model, [[free[5]]], session=start.session, max_tokens=0, stop=[[free[5], free[6]]])
    assert at_end.session.held == [[]]


def test_a_function_may_stop_a_row(model):
    free = tokens(generate(model, prompts(3, 10), max_tokens=14, temperature=0))
    counts = [0, 0]

    def stop(row: int, token: int) -> bool:
        assert token == free[row][counts[row]]
        counts[row] += 1
        return counts[row] == (3, 7)[row]

    stopped = generate(model, prompts(3, 10), max_tokens=14, temperature=0, stop=stop)
    assert tokens(stopped) == [free[0][:3], free[1][:7]]
    assert stopped.finished == ["stop", "stop"]


def test_an_empty_prompt_begins_a_document(model):
    drawn = generate(model, [[], [5]], max_tokens=6, temperature=0, end=256)
    assert tokens(drawn)[0] == tokens(generate(model, [[256]], max_tokens=6, temperature=0, end=256))[0]


def test_only_the_tokenizers_tokens_are_drawn(model):
    drawn = generate(model, [[5]] * 20, max_tokens=10, temperature=5.0, seed=0, vocab_size=7)
    assert all(token < 7 for row in tokens(drawn) for token in row)


def test_the_model_is_left_as_it_was(model):
    model.train()
    generation = generate(model, prompts(5), max_tokens=3, temperature=0)
    assert model.training
    # Its state can take part in training: it does not come from inference mode.
    loss, _ = model.loss(torch.tensor([[1]]), torch.tensor([[2]]), generation.state)
    loss.backward()
    model.zero_grad(set_to_none=True)
    model.eval()
    generate(model, prompts(5), max_tokens=3)
    assert not model.training


def test_models_generate(model):
    assert tokens(model.generate(prompts(5), max_tokens=4, temperature=0)) == tokens(
        generate(model, prompts(5), max_tokens=4, temperature=0)
    )


def test_mistakes_are_told(model):
    session = generate(model, [[1], [2]], max_tokens=0).session
    for words, call in {
        "prompt is empty": {"prompts": [[]]},
        "neither prompts nor a session": {},
        "at least one row": {"prompts": []},
        "must be .B, T. token ids": {"prompts": torch.zeros(1, 2, 3, dtype=torch.long)},
        "prompt 1 holds the token 272, but this model knows the tokens 0 to 271": {"prompts": [[1], [2, 272]]},
        "holds the token -1": {"prompts": [[-1]]},
        "max_tokens is -1": {"prompts": [[1]], "max_tokens": -1},
        "chunk 0": {"prompts": [[1]], "chunk": 0},
        "2 seeds for 1 rows": {"prompts": [[1]], "seed": [1, 2]},
        "1 prompts for a session of 2 rows": {"prompts": [[1]], "session": session},
        "holds a state already": {"prompts": [[1], [2]], "session": session, "state": session.state},
        "temperature is -1": {"prompts": [[1]], "temperature": -1},
        "stop sequence is empty": {"prompts": [[1]], "stop": [[]]},
    }.items():
        with pytest.raises(ValueError, match=words):
            generate(model, **{"max_tokens": 2} | call)
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(model, [[], []], max_tokens=2, state=session.state, end=256)
