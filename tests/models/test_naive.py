"""The last season again and again."""

import pytest
import torch

from exgate.models import io, naive


def test_the_last_season_and_the_last_value():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])[..., None]
    for season, horizon, expected in ((1, 3, [4, 4, 4]), (3, 5, [2, 3, 4, 2, 3]), (4, 2, [1, 2])):
        assert io.build(naive.Config(horizon=horizon, season=season))(x)[0, :, 0].tolist() == expected


def test_it_is_saved_without_weights(tmp_path):
    io.save(io.build(naive.Config(horizon=3, season=2)), tmp_path)
    assert io.load(tmp_path)(torch.tensor([[[1.0], [2.0]]]))[0, :, 0].tolist() == [1.0, 2.0, 1.0]


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="season is 0"):
        naive.Config(horizon=1, season=0)
    with pytest.raises(ValueError, match="4 steps, less than a season of 5"):
        io.build(naive.Config(horizon=1, season=5))(torch.zeros(1, 4, 1))
