"""The code in README.md and docs/ runs, its commands exist, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The text of each fenced block and the language named after the fence.
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The line on which each block's text begins, and the text."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in FENCE.finditer(text) if m[1] == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # One namespace per page: a block may go on from those above it, as a reader does.
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, text in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)


def test_readme_has_its_five_examples():
    assert len(blocks(ROOT / "README.md", "python")) >= 5


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page: Path):
    from exgate.cli import commands

    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for _, text in blocks(page, "console"):
        for line in text.splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["exgate"]:
                    assert words[1] in commands(), f"{name(page)}: {line}"
                    recipes = [word for word in words if word.startswith("recipes/")]
                    assert all((ROOT / recipe).is_file() for recipe in recipes), f"{name(page)}: {line}"
                elif words[:1] == ["make"]:
                    assert set(words[1:]) <= targets, f"{name(page)}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{name(page)} links to {target}, which is not there"


def test_readme_tree_names_the_folders():
    tree = next(text for _, text in blocks(ROOT / "README.md", "") if text.startswith("exgate/"))
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    there = {path.name for path in (ROOT / "exgate").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == there
    assert set(re.findall(r"^(\w+)/", tree, re.MULTILINE)) - {"exgate"} <= {path.name for path in ROOT.iterdir()}


def test_contributing_is_short():
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    assert len(lines) <= 80
    assert [line for line in lines if line.startswith("## Add a")] == [
        "## Add a backend to an op",
        "## Add a layer",
        "## Add a model",
        "## Add a task",
    ]


def test_the_index_lists_every_page():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in PAGES if "docs" in page.parts and page.name != "README.md" and page.name not in text
    ]
    assert not missing, f"docs/README.md does not list {missing}"


@pytest.mark.parametrize(
    "table", sorted((ROOT / "docs" / "results").glob("*/table.md")), ids=lambda path: path.parent.name
)
def test_results_show_the_tables_of_their_runs(table: Path):
    pages = (ROOT / "docs" / "results.md", ROOT / "docs" / "results-forecast.md")
    page = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    assert table.read_text(encoding="utf-8").strip() in page, f"docs/results*.md has another table than {name(table)}"
    assert f"results/{table.parent.name}/picture.png" in page
