"""Rare words: how the loss of the next word depends on how often it was seen in training.

Figure 2 (right) of Beck et al. 2024, arXiv:2405.04517. The models are blocks of attention, LSTM or mLSTM. Words are
grouped by their count in the training part, in decades; the picture is the perplexity of each group. --data names the
text (WikiText-103 in the paper); without it it is CPython's manual.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "lstm", "lstm-block", "xlstm[0:1]", "xlstm[1:0]")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=600, batch=16, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=512, tokens=2**17, beta2=0.95),
    "paper": Budget(steps=50_000, batch=256, dim=768, blocks=12, rates=(1e-3,), rows=4096, warmup=0.08, beta2=0.95),
}
GROUPS = ("1 to 10", "to 100", "to 1,000", "to 10,000", "more", "not known")
WINDOWS = {"smoke": 16, "small": 64, "paper": 512}
WORDS = {"smoke": 200, "small": 8000, "paper": 300_000}


def suite(preset: str, text: str) -> Suite:
    """The problem and the budget of a preset. `text` is the fingerprint of what is read."""
    window = WINDOWS[preset]
    problem = Problem(
        name="words", task="excerpts.words", options={"text": text, "most": WORDS[preset]}, train=(window, window),
        buckets=((window, window),),
    )  # fmt: skip
    return Suite(
        problems=(problem,), budget=BUDGETS[preset], models=MODELS, measure="perplexity", picture="groups",
        axis="occurrences in training", groups=GROUPS,
    )  # fmt: skip
