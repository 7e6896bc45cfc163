"""Runs that are done once: found again by configuration, whole or not at all, also with several processes."""

import json
import math

import pytest

from exgate.evaluate import cache


def square(configuration):
    return {"value": configuration["x"] ** 2, "nan": math.nan}


def test_what_is_kept_is_not_computed_again(tmp_path):
    asked, file = [], tmp_path / "new" / "runs.jsonl"

    def compute(configuration):
        asked.append(configuration["x"])
        return square(configuration)

    wanted = [{"x": x, "lengths": (1, 2)} for x in (3, 4)]
    first = list(cache.results(wanted, compute, file=file))
    assert [result for _, result in first] == [{"value": 9, "nan": None}, {"value": 16, "nan": None}]
    again = list(cache.results([*wanted, {"x": 5}], compute, file=file))
    assert again[:2] == first
    assert asked == [3, 4, 5]
    assert len(file.read_text().splitlines()) == 3


def test_a_run_is_kept_with_few_digits(tmp_path):
    file = tmp_path / "runs.jsonl"
    ((_, result),) = cache.results([{}], lambda _: {"parts": [1 / 3, math.inf]}, file=file)
    assert result == {"parts": [0.333333, None]}
    assert list(cache.read(file).values()) == [result], "what is found again is what was given out"


def test_damage_is_computed_again(tmp_path):
    file = tmp_path / "runs.jsonl"
    list(cache.results([{"x": 2}, {"x": 6}], square, file=file))
    first, second = file.read_text().splitlines()
    foreign = json.dumps({"key": cache.key({"x": 2}), "configuration": {"x": 3}, "result": {"value": 0}})
    for damage in (second + "\n" + first[:-9], f"[]\n{second}\n", f"{second}\n{foreign}\n", f'"a"\n{second}'):
        file.write_text(damage)
        assert cache.read(file) == {cache.key({"x": 6}): {"value": 36, "nan": None}}
        assert next(iter(cache.results([{"x": 2}], square, file=file)))[1]["value"] == 4
        assert {name: kept["value"] for name, kept in cache.read(file).items()} == {
            cache.key({"x": 2}): 4, cache.key({"x": 6}): 36
        }  # fmt: skip


def test_stopping_keeps_what_is_done(tmp_path):
    def compute(configuration):
        if configuration["x"] == 2:
            raise KeyboardInterrupt
        return square(configuration)

    file = tmp_path / "runs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(cache.results([{"x": x} for x in (1, 2, 3)], compute, file=file))
    assert list(cache.read(file)) == [cache.key({"x": 1})]


def test_a_file_is_written_whole(tmp_path):
    file = tmp_path / "results.json"
    cache.write(file, {"third": 1 / 3, "none": math.inf, "parts": (1, 2.0)})
    assert json.loads(file.read_text()) == {"third": 1 / 3, "none": None, "parts": [1, 2.0]}
    with pytest.raises(TypeError):
        cache.write(file, {"no": object()})
    cache.write(tmp_path / "table.md", "| a |")
    assert (tmp_path / "table.md").read_text() == "| a |\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "table.md"]
