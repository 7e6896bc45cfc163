"""Runs that are done once: found again by configuration, whole or not at all, also with several processes."""

import json
import math

import pytest

from exgate.evaluate import cache


def square(configuration):
    return {"value": configuration["x"] ** 2, "nan": math.nan}


def test_what_is_kept_is_not_computed_again(tmp_path):
    asked = []

    def compute(configuration):
        asked.append(configuration["x"])
        return square(configuration)

    wanted = [{"x": x, "lengths": (1, 2)} for x in (3, 4)]
    first = list(cache.results(wanted, compute, folder=tmp_path))
    assert [result for _, result in first] == [{"value": 9, "nan": None}, {"value": 16, "nan": None}]
    again = list(cache.results([*wanted, {"x": 5}], compute, folder=tmp_path))
    assert again[:2] == first
    assert asked == [3, 4, 5]
    assert cache.read(tmp_path, {"x": 3}) is None, "another configuration"


def test_damage_is_computed_again(tmp_path):
    (_,) = cache.results([{"x": 2}], square, folder=tmp_path)
    file = cache.file(tmp_path, {"x": 2})
    for damage in (file.read_text()[:-9], "[]", json.dumps({"configuration": {"x": 3}, "result": {}})):
        file.write_text(damage)
        assert cache.read(tmp_path, {"x": 2}) is None
    assert dict(next(iter(cache.results([{"x": 2}], square, folder=tmp_path)))[1])["value"] == 4
    assert cache.read(tmp_path, {"x": 2})["value"] == 4


def test_stopping_keeps_what_is_done(tmp_path):
    def compute(configuration):
        if configuration["x"] == 2:
            raise KeyboardInterrupt
        return square(configuration)

    with pytest.raises(KeyboardInterrupt):
        list(cache.results([{"x": x} for x in (1, 2, 3)], compute, folder=tmp_path))
    assert [cache.read(tmp_path, {"x": x}) is not None for x in (1, 2, 3)] == [True, False, False]
    assert len(list(tmp_path.iterdir())) == 1, "no half a file"
