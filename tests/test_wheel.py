"""What `pip wheel` makes: Python files alone without a C++ compiler, the kernels too with one, for any Python."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core", reason="needs the build tool")
ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "exgate", "recipes"]


PIP = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", ".", "."]
EDITABLE = ["-c", "import scikit_build_core.build as build; build.build_editable('.')"]


def wheel(folder: Path, *command: str, **environment: str) -> Path:
    """The wheel that a copy of this checkout in `folder` gives."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("libexgate*", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, *command], cwd=folder, env=os.environ | environment, check=True, timeout=500)
    (path,) = folder.glob("*.whl")
    return path


def inside(path: Path) -> tuple[str, list[str]]:
    """The name of a wheel, and those of the files in it that are not Python."""
    with zipfile.ZipFile(path) as file:
        return path.name, [name for name in file.namelist() if not name.endswith(".py")]


def test_what_is_installed_for_development_adds_one_folder_to_the_path(tmp_path):
    """Not the folder around the checkout too, where others' `datasets` or `triton` may lie."""
    path = wheel(tmp_path, *EDITABLE, CXX=str(tmp_path / "no-such-compiler"))
    with zipfile.ZipFile(path) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".pth")]
        added = [line for line in file.read(name).decode().splitlines() if not line.startswith("import ")]
    assert added == [str(tmp_path.resolve())]


def test_without_a_compiler_it_is_python_alone(tmp_path):
    name, files = inside(wheel(tmp_path, *PIP, CXX=str(tmp_path / "no-such-compiler")))
    assert name.endswith("-py3-none-any.whl")
    assert not [file for file in files if "libexgate" in file or file.endswith((".cpp", ".h"))]
    assert {"exgate/py.typed", "exgate/recipes/small.toml"} <= set(files)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_with_a_compiler_it_is_for_this_platform_and_any_python(tmp_path):
    name, files = inside(wheel(tmp_path, *PIP))
    assert "-py3-none-" in name
    assert not name.endswith("-any.whl")
    assert [file for file in files if "libexgate" in file]
    assert not [file for file in files if file.endswith((".cpp", ".h"))]
