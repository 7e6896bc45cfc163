"""Scores against a direct, slow computation, and what must not change them: batches, padding, order, windows."""

import math

import pytest
import torch

from exgate.evaluate.perplexity import losses, score, spans, summary
from exgate.models import lstm, xlstm

END, VOCABULARY = 16, 17


@pytest.fixture(scope="module", params=["xlstm", "lstm"])
def model(request):
    torch.manual_seed(0)
    if request.param == "xlstm":
        config = xlstm.Config(vocab_size=VOCABULARY, dim=16, blocks=2, heads=2, pattern="ms", dropout=0.3)
        model = xlstm.build(config)
    else:
        model = lstm.build(lstm.Config(vocab_size=VOCABULARY, dim=16, layers=1, dropout=0.3))
    with torch.no_grad():
        # Weights as initialised remember little: these make the context matter.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def documents(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, END, (length,), generator=generator).tolist() for length in lengths]


def slow(model, document: list[int], window: int, stateful: bool = False) -> float:
    """The definition: one forward for each token, over exactly what it may look back on."""
    row, total = [END, *document], 0.0
    model.eval()
    for place in range(1, len(row)):
        if stateful:
            begin = 0
        else:
            cut = (place - 1) // window * window  # the last place before the window of this one
            whole = cut + window < len(row)
            begin = cut if whole else max(0, len(row) - 1 - window)
        with torch.no_grad():
            logits, _ = model(torch.tensor([row[begin:place]]))
        total -= logits[0, -1].double().log_softmax(-1)[row[place]].item()
    model.train()
    return total


@pytest.mark.parametrize("stateful", [False, True])
def test_the_direct_computation_gives_the_same(model, stateful):
    texts = documents(1, 5, 6, 7, 12, 17, 0, 23)
    nats = losses(model, texts, window=6, end=END, stateful=stateful, batch=3)
    assert nats == pytest.approx([slow(model, text, 6, stateful) for text in texts], rel=1e-5)
    assert nats[6] == 0.0


def test_spans_are_the_rolling_rule():
    assert list(spans(4, 6)) == [(0, 1, 4)]
    assert list(spans(12, 6)) == [(0, 1, 6), (6, 7, 12)]
    # The last window is filled up with the three tokens before it.
    assert list(spans(15, 6)) == [(0, 1, 6), (6, 7, 12), (9, 13, 15)]
    for length in range(40):
        scored = [place for _, first, last in spans(length, 7) for place in range(first, last + 1)]
        assert scored == list(range(1, length + 1))
        assert all(last - begin <= 7 for begin, _, last in spans(length, 7))
        assert all(last - begin == 7 for begin, _, last in spans(length, 7)) or length < 7


def test_both_modes_agree_up_to_the_window_and_differ_beyond(model):
    short, long = documents(3, 8, 5), documents(30)
    both = [losses(model, short, window=8, end=END, stateful=stateful) for stateful in (False, True)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)
    both = [losses(model, long, window=8, end=END, stateful=stateful) for stateful in (False, True)]
    assert abs(both[0][0] - both[1][0]) > 1e-2


def test_the_window_does_not_matter_when_the_state_is_carried(model):
    texts = documents(30, 4, 19)
    whole = losses(model, texts, window=64, end=END, stateful=True)
    assert losses(model, texts, window=5, end=END, stateful=True, batch=2) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("stateful", [False, True])
def test_neither_the_order_nor_the_batch_matters(model, stateful):
    texts = documents(3, 14, 9, 1, 25, 6)
    nats = losses(model, texts, window=6, end=END, stateful=stateful, batch=4)
    alone = [losses(model, [text], window=6, end=END, stateful=stateful)[0] for text in texts]
    assert nats == pytest.approx(alone, rel=1e-5)
    turned = losses(model, texts[::-1], window=6, end=END, stateful=stateful, batch=4)
    assert turned[::-1] == pytest.approx(nats, rel=1e-5)


def test_what_the_padding_holds_does_not_matter(model):
    """Padding is whatever `pad_sequence` puts there: a document gets the same beside a longer one."""
    short = documents(3)[0]
    for other in documents(20, 11):
        assert losses(model, [short, other], window=32, end=END)[0] == pytest.approx(
            losses(model, [short], window=32, end=END)[0], rel=1e-5
        )


def test_measures_of_known_numbers():
    measures = summary([8 * math.log(2), 4 * math.log(4)], [8, 4], [16, 16], [2, 2])
    assert measures["loss"] == pytest.approx(16 * math.log(2) / 12)
    assert measures["perplexity"] == pytest.approx(2 ** (16 / 12))
    assert measures["word_perplexity"] == pytest.approx(2**4)
    assert measures["bits_per_byte"] == pytest.approx(0.5)
    assert [measures[key] for key in ("tokens", "words", "bytes", "documents")] == [12, 4, 32, 2]
    assert summary([800.0], [1], [1], [0]) | {"loss": 0} == {
        "loss": 0, "perplexity": math.inf, "word_perplexity": math.inf, "bits_per_byte": 800 / math.log(2),
        "tokens": 1, "words": 0, "bytes": 1, "documents": 1,
    }  # fmt: skip
    assert math.isnan(summary([math.nan], [1], [1], [1])["perplexity"])


def test_score_sums_up_and_reports_progress(model):
    texts, told = documents(3, 14, 0), []
    measures = score(model, texts, [3, 14, 0], [1, 3, 0], window=6, end=END, on_progress=told.append)
    assert sum(told) == measures["tokens"] == 17
    assert measures["documents"] == 2
    assert measures["loss"] == pytest.approx(sum(slow(model, text, 6) for text in texts) / 17, rel=1e-5)
    assert model.training, "the model is put back into the mode that it was in"


def test_mistakes_are_told(model):
    with pytest.raises(ValueError, match="nothing to score"):
        score(model, [[], []], [0, 0], [0, 0], window=4, end=END)
    with pytest.raises(ValueError, match="nothing to score"):
        score(model, [], [], [], window=4, end=END)
    with pytest.raises(ValueError, match="2 documents with 1 byte counts"):
        score(model, [[1], [2]], [1], [1, 1], window=4, end=END)
    with pytest.raises(ValueError, match="window is 0"):
        losses(model, [[1]], window=0, end=END)
    with pytest.raises(ValueError, match="document 1 holds the token 99, but this model knows the tokens 0 to 16"):
        losses(model, [[1], [99]], window=4, end=END)
    with pytest.raises(ValueError, match="holds the token -1"):
        losses(model, [[-1]], window=4, end=END)
