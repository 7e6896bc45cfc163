"""Precise timing with and without peepholes: spike delays (MSD), timed spikes (GTS), periodic functions (PFG).

Gers, Schraudolph and Schmidhuber 2002. The measure is the share of sequences in which every step's error is below 0.49
(PFG: 0.3). In 2002 one cell was trained online with momentum on streams of up to ten million spikes; here it is a few
cells, whole sequences and AdamW.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

# A few cells: a convolution would weigh too much.
MODELS = ("rnn", "lstm", "lstm-peephole", "xlstm[0:1]-no-conv", "xlstm[0:1]-uniform")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=8, rates=(1e-2,), rows=8, blocks=1),
    "small": Budget(steps=2000, batch=32, dim=8, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=512, blocks=1),
    "paper": Budget(steps=100_000, batch=32, dim=8, rates=(1e-2, 3e-3, 1e-3), seeds=10, rows=1000, blocks=1),
}
TASKS = {
    "MSD F10": ("timing.measure", {}),
    "GTS F10": ("timing.generate", {}),
    "PFG cosine F10": ("timing.periodic", {}),
    "PFG cosine F25": ("timing.periodic", {"interval": 25}),
    "PFG triangle F10": ("timing.periodic", {"shape": "triangle"}),
    "PFG rectangle F10": ("timing.periodic", {"shape": "rectangle"}),
}


def suite(preset: str) -> Suite:
    """The problems and the budget of a preset: learnt over ten periods of ten steps, scored over a hundred, too."""
    train, test = (30, 60) if preset == "smoke" else (100, 1000)
    problems = (
        Problem(name=name, task=task, options=options, train=(train, train), buckets=((train, train), (test, test)))
        for name, (task, options) in TASKS.items()
    )
    return Suite(
        problems=tuple(problems), budget=BUDGETS[preset], models=MODELS, measure="correct", headline=0, axis="steps"
    )
