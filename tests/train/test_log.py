"""Rows on disk, and what the terminal shows."""

from __future__ import annotations

import errno
import math
import sys

import pytest

from exgate.train import log


def test_rows_after_the_checkpoint_are_cut(tmp_path):
    first = log.Log(tmp_path)
    for step in (10, 20, 30):
        first.metrics({"step": step, "loss": 0.1 * step})
        first.timing({"step": step, "seconds": 1.5})
    first.close()
    whole = (tmp_path / "metrics.jsonl").read_text()
    assert [row["step"] for row in log.rows(tmp_path)] == [10, 20, 30]
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 40, "lo')  # killed in the middle of a line
    assert [row["step"] for row in log.rows(tmp_path)] == [10, 20, 30]
    second = log.Log(tmp_path, step=20)
    second.metrics({"step": 30, "loss": 0.1 * 30})
    second.close()
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    assert [row["step"] for row in log.rows(tmp_path, log.TIMING)] == [10, 20]
    assert log.rows(tmp_path / "nowhere") == []


def test_full_disk(tmp_path, monkeypatch):
    journal = log.Log(tmp_path)

    class Full:
        name = "metrics.jsonl"

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.write("")

    journal._metrics.close()
    monkeypatch.setattr(journal, "_metrics", Full())
    with pytest.raises(OSError, match=r"^log: 'metrics.jsonl' could not be written: the disk is full\. Make room"):
        journal.metrics({"step": 1})
    journal.close()


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboard", reason="the package 'tensorboard' (extra 'log') is not installed")
    journal = log.Log(tmp_path, tensorboard=True)
    journal.metrics({"step": 1, "loss": 2.0})
    journal.metrics({"step": 1, "validation_loss": 3.0})
    journal.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "validation/loss"}
    assert events.Scalars("validation/loss")[0].value == 3.0


def test_tensorboard_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ImportError, match=r"needs the package 'tensorboard'.*exgate\[log\]"):
        log.Log(tmp_path, tensorboard=True)


def test_lines_where_there_is_no_terminal():
    said = []
    with log.Display(200, step=100, say=said.append) as display:
        display.step(120)
        display.row(120, {"loss": 1.25, "bits_per_byte": 1.5, "lr": 1e-3}, 12345.6)
        display.note("a note")
    assert len(said) == 2
    assert said[0].startswith("step 120/200  loss 1.2500  1.500 bits/byte  lr 1.00e-03  12,346 tokens/s")
    assert said[0].endswith("left")
    quiet = []
    with log.Display(200, say=quiet.append, quiet=True) as display:
        display.row(20, {"loss": 1.25, "lr": 1e-3}, 1.0)
        display.note("a note")
    assert quiet == ["a note"]


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with log.Display(20) as display:
        display.step(10)
        display.row(10, {"loss": 1.25, "lr": 1e-3}, 100.0)
        display.note("a note [about] something")
    out = capsys.readouterr().out
    assert "10/20" in out
    assert "loss 1.2500" in out
    assert "a note [about] something" in out


def test_units():
    # One token of 4 bytes at 4 ln 2 nats is one bit a byte.
    assert log.bits_per_byte(4 * math.log(2), 4.0) == pytest.approx(1.0)
    assert [log.duration(s) for s in (0.4, 59, 61, 7980)] == ["0 s", "59 s", "1 min 01 s", "2 h 13 min"]
