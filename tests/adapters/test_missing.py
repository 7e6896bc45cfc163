"""An adapter without its library says what to install."""

import importlib
import sys

import pytest


@pytest.mark.parametrize("name", ["neuralforecast", "gluonts", "sktime"])
def test_a_missing_library_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"exgate.forecast.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=f"needs the package '{name}'. Install it: pip install {name}"):
        importlib.import_module(f"exgate.forecast.adapters.{name}")
