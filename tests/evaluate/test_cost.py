"""What models cost: a state that grows and one that does not, memory that grows with the model."""

import pytest

from exgate.data.excerpts import bytes_
from exgate.evaluate import cost
from exgate.evaluate.trial import Budget, Problem

PROBLEM = Problem(name="p", task="t", train=(16, 16), buckets=((16, 16), (64, 64)))
BUDGET = Budget(steps=1, batch=2, dim=16)


@pytest.fixture(scope="module")
def costs():
    task = bytes_(["python-manual"])
    return cost.measure(("lstm", "llama", "xlstm[1:0]"), task, PROBLEM, BUDGET)


def test_the_state_of_attention_grows_alone(costs):
    assert costs["llama"]["longest_state_bytes"] > 3.9 * costs["llama"]["state_bytes"]
    for name in ("lstm", "xlstm[1:0]"):
        assert costs[name]["longest_state_bytes"] == costs[name]["state_bytes"]


def test_the_state_of_an_lstm(costs):
    from exgate.evaluate import peers

    fields = peers.size("lstm", bytes_(["python-manual"]), dim=16, blocks=2)
    hidden = fields.get("hidden", fields["dim"])
    assert costs["lstm"]["state_bytes"] == 2 * 2 * 4 * hidden  # two layers of h and c in float32


def test_memory_and_speed_are_counted(costs):
    for found in costs.values():
        assert found["tokens_per_second"] > 0
        assert 500 < found["kept_bytes_per_token"] < 100_000
