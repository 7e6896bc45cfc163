"""Nearest neighbour search: a decision of what to keep, revised as the sequence goes on."""

import numpy as np

from exgate.data.synthetic import Batch, Task, lengths


def search() -> Task:
    """The value of the vector most similar to the first one, so far (Beck et al. 2024, arXiv:2405.04517, appendix B).

    Steps (u, v): u uniform on the unit circle, v uniform in [0, 1]; three numbers. Step 0 is the key (its v is 0, and
    it has no target); the target at t >= 1 is the v of that u among 1 ... t with the largest product with the key. The
    lengths are those of the sequences, key included, at least 2. A constant has the error 1/12.
    """

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        sizes = lengths(rng, rows, shortest, longest)
        angle = rng.uniform(0, 2 * np.pi, (rows, longest))
        value = rng.uniform(0, 1, (rows, longest))
        value[:, 0] = 0.0
        likeness = np.cos(angle - angle[:, :1])
        likeness[:, 0] = -2.0
        new = likeness >= np.maximum.accumulate(likeness, 1)
        best = np.maximum.accumulate(np.where(new, np.arange(longest), 0), 1)
        targets = np.take_along_axis(value, best, 1)
        targets[:, 0] = np.nan
        past = np.arange(longest) >= sizes[:, None]
        targets[past] = np.nan
        inputs = np.stack([np.cos(angle), np.sin(angle), value], 2)
        inputs[past] = 0.0
        return Batch(inputs.astype(np.float32), targets.astype(np.float32))

    return Task(sample=sample, features=3, outputs=1, chance=1 / 12, tolerance=0.1, along=True)
