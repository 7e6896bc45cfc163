"""Formal languages: who tracks a state, counts, keeps a stack; trained short, scored long, as a heat map.

The tasks of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517, section 4.1, appendix B.1.1) in its order. Trained on
lengths 3 to 40; the map shows 40 to 256, accuracy of answer tokens scaled so that chance is 0.
"""

from dataclasses import replace

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "mamba", "rwkv4", "lstm-block", "lstm", "xlstm[0:1]", "xlstm[1:0]", "xlstm[1:1]")
MAIN = (
    "bucket-sort", "missing-duplicate", "mod-arithmetic-brackets", "solve-equation", "cycle-nav", "even-pairs",
    "mod-arithmetic", "parity", "majority", "majority-count",
)  # fmt: skip
SUPPLEMENT = ("odds-first", "reverse", "stack", "repetition", "set")
REGULAR = ("cycle-nav", "even-pairs", "mod-arithmetic", "parity")
OTHERS = 32  # the batch of the languages that are not regular in `small`: eleven of fifteen, for half the time
CELLS = {"slstm_conv_kernel": 0, "recurrent_init": "uniform"}  # as published for these tasks
SHORTEST = {"solve-equation": 5}  # an equation of less has no x
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=1000, batch=64, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3),
    "paper": Budget(steps=100_000, batch=256, dim=64, rates=(1e-2, 1e-3, 1e-4), seeds=2, rows=8192),
}


def suite(preset: str) -> Suite:
    """The problems and the budget of a preset."""
    smoke = preset == "smoke"
    buckets = ((5, 12), (20, 30)) if smoke else ((5, 40), (160, 256), (40, 256))
    names = ("parity", "mod-arithmetic-brackets", "set") if smoke else MAIN + SUPPLEMENT
    problems = (
        Problem(
            name=name, task="formal.language", options={"name": name}, train=(SHORTEST.get(name, 3), buckets[0][1]),
            buckets=buckets, batch=OTHERS if preset == "small" and name not in REGULAR else None,
        )
        for name in names
    )  # fmt: skip
    budget = replace(BUDGETS[preset], cells=CELLS)
    return Suite(problems=tuple(problems), budget=budget, models=MODELS, picture="map")
