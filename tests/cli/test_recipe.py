"""Recipes: read, overridden, written, compared, and refused in words."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from exgate.cli import recipe
from exgate.models import io

TOML = """
[model]
name = "xlstm"
dim = 32
blocks = 2
[data]
sources = "book.txt"
[optim]
lr = 1
betas = [0.8, 0.9]
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "mine.toml").write_text(TOML)
    return tmp_path / "mine.toml"


def test_file_and_flags(file):
    plain = recipe.read(str(file))
    assert (io.name(plain.model), plain.model.dim, plain.model.vocab_size) == ("xlstm", 32, 0)
    assert plain.data.sources == ("book.txt",)
    assert (plain.optim.lr, plain.optim.betas, plain.optim.steps) == (1.0, (0.8, 0.9), recipe.Optim().steps)
    assert plain.run.folder == "runs/mine"
    flags = "--model.dim 64 --data.sources a.txt b.txt --optim.lr 3e-4 --run.folder x --run.picture false"
    other = recipe.read(str(file), [*flags.split(), "--data.stateful", "true"])
    assert (other.model.dim, other.model.blocks) == (64, 2)
    assert other.data.sources == ("a.txt", "b.txt")
    assert (other.optim.lr, other.run.folder, other.run.picture, other.data.stateful) == (3e-4, "x", False, True)
    assert recipe.read(str(file), ["--optim.betas", "0.5", "0.6"]).optim.betas == (0.5, 0.6)


def test_model_name_from_a_flag(tmp_path):
    (tmp_path / "a.toml").write_text('[model]\nname = "xlstm"\ndim = 8\n')
    for flags in (["--model.name", "lstm", "--model.layers", "3"], ["--model.name=lstm", "--model.layers=3"]):
        model = recipe.read(str(tmp_path / "a.toml"), flags).model
        assert (io.name(model), model.dim, model.layers) == ("lstm", 8, 3)
    (tmp_path / "a.toml").write_text('[model]\nname = "lstm"\ndim = 8\nlayers = 1\n')
    assert recipe.read(str(tmp_path / "a.toml"), ["--model.hidden", "6", "--model.residual", "False"]).model.hidden == 6
    with pytest.raises(ValueError, match="Did you mean 'lstm'"):
        recipe.read(str(tmp_path / "a.toml"), ["--model.name", "lstn"])
    with pytest.raises(ValueError, match=r"--model.name needs a value, one of .*xlstm"):
        recipe.read(str(tmp_path / "a.toml"), ["--model.name"])


@pytest.mark.parametrize(
    "words",
    [
        "llama --model.heads 4",
        "mamba",
        "rwkv4",
        "xlstm_7b --model.heads 4 --model.qk_dim 64 --model.v_dim 128 --model.ffn_dim 256",
        "lstm --model.layers 2",
    ],
)
def test_another_model_in_a_recipe(words):
    name, *flags = words.split()
    one = recipe.read("small", ["--model.name", name, *flags])
    small = recipe.read("small")
    assert (io.name(one.model), one.model.dim, one.data, one.optim) == (name, 128, small.data, small.optim)
    assert getattr(one.model, "blocks", 4) == 4
    assert io.build(dataclasses.replace(one.model, vocab_size=257), device="meta").num_parameters() > 0
    if flags:
        with pytest.raises(ValueError, match=f"{name} needs more than .* add .*{flags[-2]} VALUE"):
            recipe.read("small", ["--model.name", name])
        with pytest.raises(ValueError, match=f"{flags[-2][8:]} is 'x', but should be of type int"):
            recipe.read("small", ["--model.name", name, *flags[:-1], "x"])


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("[optim]", "[optimizer]", r"unknown section \[optimizer\]. Did you mean 'optim'"),
        ("lr = 1", "lrr = 1", r"\[optim\] of '.*mine.toml' has an unknown key 'lrr'. Did you mean 'lr'"),
        ("dim = 32", "dims = 32", "unknown field 'dims'. Did you mean 'dim'"),
        ("dim = 32", 'dim = "wide"', "dim is 'wide', but should be of type int"),
        ("lr = 1", 'lr = "fast"', "lr is 'fast'; it should be of type float"),
        ("lr = 1", "steps = 1.5", "steps is 1.5; it should be of type int"),
        ("lr = 1", "steps = true", "steps is True; it should be of type int"),
        ("[0.8, 0.9]", "[0.8]", "a list of 2"),
        ('sources = "book.txt"', "sources = 3", "sources is 3; it should be a list"),
        ('name = "xlstm"', "", "names no model; add to .model. name = one of .*lstm, .*xlstm"),
        ('name = "xlstm"', 'name = "seq2seq"', "'seq2seq' is not a language model; choose one of .*lstm"),
        ('name = "xlstm"', 'name = "xlst"', "unknown model 'xlst'. Did you mean 'xlstm'"),
        ("[data]", "data = 3\n[other]", "unknown section|data. = 3"),
        ("dim = 32", "dim = = 32", "mine.toml' is not TOML"),
    ],
)
def test_mistakes(file, old, new, words):
    assert old in TOML
    file.write_text(TOML.replace(old, new))
    with pytest.raises(ValueError, match=words):
        recipe.read(str(file))


def test_wrong_flags_name_the_right_one(file, capsys):
    for flags, words in (
        (["--optim.lrr", "3"], "--optim.lr"),
        (["--model.dim", "wide"], "--model.dim: invalid literal"),
    ):
        with pytest.raises(SystemExit) as caught:
            recipe.read(str(file), flags)
        assert caught.value.code == 2
        assert words in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_help_shows_every_field(file, capsys):
    with pytest.raises(SystemExit):
        recipe.read(str(file), ["--help"], help="Some words.\n\n  exgate train an-example\n")
    out = capsys.readouterr().out
    assert "  exgate train an-example" in out
    for name, section in recipe.SECTIONS.items():
        documented = section.__doc__.split("Args:")[1]
        for field in dataclasses.fields(section):
            assert f"--{name}.{field.name} " in out
            assert f"        {field.name}: " in documented
    assert "--model.dim " in out


def test_missing_recipes(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no recipe file or run folder 'smal'.* Did you mean 'small'"):
        recipe.read("smal")
    with pytest.raises(FileNotFoundError, match=r"There are: .*small"):
        recipe.read("zzzzzz")
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no recipe.toml"):
        recipe.read(str(tmp_path))


def test_run_folder_is_a_recipe(tmp_path, file):
    resolved = recipe.read(str(file), ["--run.folder", str(tmp_path / "old")])
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "recipe.toml").write_text(recipe.dumps(resolved))
    again = recipe.read(str(tmp_path / "moved"))
    assert again.run.folder == str(tmp_path / "moved")
    assert recipe.differences(again, resolved) == []


def test_written_recipes_read_the_same(file):
    one = recipe.read(str(file))
    odd = 'a "quoted" \\ name\twith \x7f and é.txt'
    one = dataclasses.replace(
        one,
        data=dataclasses.replace(one.data, sources=(odd, "-")),
        optim=dataclasses.replace(one.optim, eps=1e-12, lr=3e22),
    )
    assert recipe.from_dict(tomllib.loads(recipe.dumps(one))) == one
    lstm = recipe.from_dict({"model": {"name": "lstm", "dim": 8, "layers": 1}})
    assert lstm.model.hidden is None
    assert recipe.from_dict(tomllib.loads(recipe.dumps(lstm))) == lstm


def test_differences(file):
    one = recipe.read(str(file))
    other = recipe.read(
        str(file), ["--optim.lr", "2", "--run.keep", "9", "--data.sources", "b.txt", "--model.vocab_size", "300"]
    )
    assert recipe.differences(one, other) == [
        "data.sources was ['book.txt'] and is now ['b.txt']",
        "optim.lr was 1.0 and is now 2.0",
    ]
    assert recipe.differences(one, recipe.read(str(file), ["--model.name", "xlstm"])) == []


@pytest.mark.parametrize("name", sorted(recipe.names()))
def test_recipes_that_come_along(name):
    one = recipe.read(name)
    assert one.run.folder == f"runs/{name}"
    model = io.build(dataclasses.replace(one.model, vocab_size=one.model.vocab_size or 257), device="meta")
    assert model.num_parameters() > 0


def test_paper_recipe_is_the_papers():
    one = recipe.read("xlstm-125m")
    model = io.build(one.model, device="meta")
    assert model.num_parameters() == 163_690_928
    o = one.optim
    assert (o.betas, o.eps, o.weight_decay, o.warmup, o.min_ratio, o.clip) == ((0.9, 0.95), 1e-5, 0.1, 750, 0.1, 1.0)
    assert (one.data.window, one.data.batch, o.schedule, o.steps, o.lr) == (2048, 256, "cosine", 30_000, 1e-3)


def test_small_recipes_are_of_one_size():
    sizes = []
    for name in ("small", "lstm-small"):
        one = recipe.read(name)
        sizes.append(io.build(dataclasses.replace(one.model, vocab_size=257), device="meta").num_parameters())
        assert (one.optim.steps, one.data.window, one.data.batch) == (500, 256, 8)
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
