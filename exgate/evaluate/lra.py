"""The Long Range Arena: one class for a long sequence, read at its last step.

Tay et al. 2021, arXiv:2011.04006, with the settings of the xLSTM paper (arXiv:2405.04517, table 5) as preset `paper`.
listops is generated. --data FOLDER adds the data sets that are in it as they are published, and no others:

  text           reviews of films, byte by byte       aclImdb/
  retrieval      pairs of papers, byte by byte        new_aan_pairs.train.tsv, eval, test; or tsv_data/ with them
  image          CIFAR-10, grey, pixel by pixel       cifar-10-batches-bin/
  rgb-image      the same in colours                  the same
  pathfinder     32 x 32, pixel by pixel              pathfinder32/curv_contour_length_14/

The paper has no text; it has the settings of retrieval here. retrieval is one sequence of both papers, where the arena
encodes them apart. Scores are of sequences that are drawn from the test part.
"""

from collections.abc import Mapping
from typing import Any

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "mamba", "rwkv4", "lstm", "lstm-block", "xlstm[0:1]", "xlstm[1:0]")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=2000, batch=32, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3),
    "paper": Budget(steps=80_000, batch=32, dim=128, rates=(1e-3, 6e-4, 1e-4), rows=2000, blocks=8),
}
LENGTHS = {"smoke": (5, 40), "small": (50, 200), "paper": (500, 2000)}
# Of what is read, the longest sequences; images have 1024 pixels, and fewer are their upper rows.
LONGEST = {
    "smoke": {"text": 32, "retrieval": 33, "image": 64, "rgb-image": 64, "pathfinder": 64},
    "small": {"text": 500, "retrieval": 1001, "image": 1024, "rgb-image": 1024, "pathfinder": 1024},
    "paper": {"text": 4000, "retrieval": 8001, "image": 1024, "rgb-image": 1024, "pathfinder": 1024},
}
IMAGES = ("image", "rgb-image", "pathfinder")
_DOCUMENTS = {"blocks": 6, "dim": 128, "batch": 64, "steps": 100_000}
_CIFAR = {"blocks": 6, "dim": 512, "batch": 64, "steps": 180_000}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "smoke": {},
    # As many tokens at most as ListOps has.
    "small": {name: {"batch": 16, "steps": 600} for name in LONGEST["small"]},
    "paper": {
        "text": _DOCUMENTS, "retrieval": _DOCUMENTS, "image": _CIFAR, "rgb-image": _CIFAR,
        "pathfinder": {"blocks": 6, "dim": 192, "batch": 64, "steps": 500_000},
    },
}  # fmt: skip


def suite(preset: str, data: Mapping[str, str] | None = None) -> Suite:
    """The problems and the budget of a preset. `data` has the fingerprint of each data set that is there, by task."""
    reach = LENGTHS[preset]
    problems = [Problem(name="listops", task="listops.listops", train=reach, buckets=(reach,))]
    for name, fingerprint in (data or {}).items():
        longest = LONGEST[preset][name]
        reach = (longest if name in IMAGES else 1, longest)
        problems.append(
            Problem(
                name=name, task=f"arena.{name.replace('-', '_')}", train=reach, buckets=(reach,),
                options={"data": fingerprint}, **SETTINGS[preset].get(name, {}),
            )
        )  # fmt: skip
    return Suite(problems=tuple(problems), budget=BUDGETS[preset], models=MODELS, measure="accuracy")
