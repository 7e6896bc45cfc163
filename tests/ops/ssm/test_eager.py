"""The blocked scan: finite for every step size and every chunk, with what the definition says."""

import pytest
import torch

from tests.ops.contract import SPECS, Case, error


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 10, 64, None])
@pytest.mark.parametrize("sizes", [(0.0, 0.0), (1e-30, 1e4), (1e4, 1e4), (0.0, 1e4), (1e-3, 50.0)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_it_is_finite_for_every_step_size(sizes, chunk_size, kind):
    case = Case.random(SPECS["ssm"], kind, time=33, seed=2)
    u, delta, *others = case.sequences
    steps = torch.where(delta > 0.7, *(torch.tensor(size, dtype=kind) for size in sizes))
    case = case.replace(sequences=(u, steps, *others))
    found = case.run("eager", chunk_size=chunk_size)
    assert all(x.isfinite().all() for x in found)
    assert error(found, case.to(torch.float64).run("reference")) < (1e-5 if kind == torch.float32 else 1e-12)
