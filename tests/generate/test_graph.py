"""A step as a CUDA graph is the step; and where a graph is asked for."""

import pytest
import torch

from exgate.generate import replay
from exgate.generate.graph import Graph, Unrecordable
from exgate.generate.replay import Replay, Stepper, recorder
from exgate.generate.sampling import generate
from exgate.models import lstm, mamba, xlstm, xlstm_7b
from exgate.ops import native, program
from exgate.ops.state import flatten, map_state
from tests.generate.conftest import lively

MODELS = {
    "xlstm": lambda: xlstm.build(xlstm.Config(vocab_size=61, dim=32, blocks=3, heads=2, pattern="msm")),
    "7b": lambda: xlstm_7b.build(
        xlstm_7b.Config(vocab_size=61, dim=32, blocks=2, heads=2, qk_dim=16, v_dim=32, ffn_dim=48)
    ),
    "mamba": lambda: mamba.build(mamba.Config(vocab_size=61, dim=24, blocks=2, state_size=5)),
    "lstm": lambda: lstm.build(lstm.Config(vocab_size=61, dim=24, layers=2)),
}


@pytest.fixture
def model(request):
    return lively(MODELS[request.param]().eval())


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_it_is_the_step(model, rows):
    model = model.cuda()
    with torch.inference_mode():
        logits, state = model(torch.randint(0, 61, (rows, 5)).cuda())
        start = map_state(torch.clone, state)
        tokens = logits[:, -1].argmax(-1)
        step = Graph(model, tokens, state)
        assert all(torch.equal(*pair) for pair in zip(flatten(state).values(), flatten(start).values(), strict=True))
        logits, state = model(tokens[:, None], state)
        torch.testing.assert_close(step.logits, logits[:, -1])
        for _ in range(12):
            tokens = torch.randint(0, 61, (rows,)).cuda()
            logits, state = model(tokens[:, None], state)
            torch.testing.assert_close(step(tokens), logits[:, -1], rtol=1e-4, atol=1e-4)
        for part, wanted in flatten(state).items():
            torch.testing.assert_close(flatten(step.state)[part], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_generation_is_the_same_with_and_without(model, monkeypatch):
    """Rows end at different times: a step is captured anew for those that are left."""
    model, captured = model.cuda(), []
    monkeypatch.setattr(replay, "PATIENCE", 1)
    first = Graph.__init__
    monkeypatch.setattr(Graph, "__init__", lambda self, *args: (captured.append(len(args[1])), first(self, *args))[1])
    prompts, options = [torch.arange(n) for n in (1, 4, 9)], {"max_tokens": 40, "seed": 5, "end": 7}
    found = generate(model, prompts, **options)
    assert captured[0] == 3
    monkeypatch.setattr(model, "replayable", False, raising=False)
    plain = generate(model, prompts, **options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in plain.tokens]


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["lstm"], indirect=True)
def test_a_step_that_waits_for_the_device_is_left_as_it_is(model):
    model = model.cuda()
    model.stack.register_forward_hook(lambda module, args, out: (out[0] * (out[0][0, 0, 0].item() > 0), out[1]))
    with torch.inference_mode():
        tokens = torch.zeros(1, dtype=torch.long).cuda()
        _, state = model(tokens[:, None])
        with pytest.raises(Unrecordable):
            Graph(model, tokens, state)
        step = Stepper(model)
        for _ in range(replay.PATIENCE + 3):
            logits, state = step(tokens, state)
        assert logits.isfinite().all()


def test_what_records_where():
    assert recorder(100, torch.device("cuda", 1)) is Graph
    assert recorder(program.MOST_ROWS + 1, torch.device("cpu")) is None
    assert recorder(1, torch.device("cpu")) is (None if native.absent() else Replay)


class _Graph(Graph):
    """The same without a device: a step is taken, not captured."""

    def __init__(self, model, tokens, state):
        self.model, self._tokens = model, tokens[:, None].clone()
        self.state = map_state(torch.clone, state)
        self(tokens)

    def __call__(self, tokens):
        self._tokens.copy_(tokens[:, None])
        logits, after = self.model(self._tokens, self.state)
        self.logits = logits[:, -1]
        self._check(after)
        self._carry(after)
        return self.logits


@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_the_state_is_carried_in_place(model, monkeypatch):
    """What surrounds the capture, on the CPU: the state stays where it is, and generation is the same."""
    prompts, options = [torch.arange(n) for n in (1, 4)], {"max_tokens": 12, "seed": 5, "end": 7}
    plain = generate(model, prompts, **options)
    taken = []
    monkeypatch.setattr(replay, "recorder", lambda *args: lambda *args: taken.append(_Graph(*args)) or taken[-1])
    found = generate(model, prompts, **options)
    assert taken
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in plain.tokens]
    for part, wanted in flatten(plain.state).items():
        torch.testing.assert_close(flatten(found.state)[part], wanted, rtol=1e-4, atol=1e-4)


class _Shifting(torch.nn.Module):
    """A state whose second part is the first one of the step before."""

    def forward(self, tokens, state):
        return torch.zeros(len(tokens), 1, 3), (tokens.float(), state[0])


def test_states_that_a_copy_would_overwrite_are_refused():
    with pytest.raises(Unrecordable, match="a part of the state before"):
        _Graph(_Shifting(), torch.zeros(2, dtype=torch.long), (torch.ones(2, 1), torch.zeros(2, 1)))


class _Growing(torch.nn.Module):
    def forward(self, tokens, state):
        return torch.zeros(len(tokens), 1, 3), torch.cat([state, state], 1)


def test_states_that_grow_are_refused():
    with pytest.raises(Unrecordable, match="changes its form"):
        _Graph(_Growing(), torch.zeros(2, dtype=torch.long), torch.ones(2, 1))
