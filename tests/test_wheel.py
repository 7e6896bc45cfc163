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


def wheel(folder: Path, **environment: str) -> tuple[str, list[str]]:
    """The name of the wheel that this checkout gives, and those of the files in it that are not Python."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("libexgate*", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", "."]
    subprocess.run([*command, "."], cwd=folder, env=os.environ | environment, check=True, timeout=500)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        return path.name, [name for name in file.namelist() if not name.endswith(".py")]


def test_without_a_compiler_it_is_python_alone(tmp_path):
    name, files = wheel(tmp_path, CXX=str(tmp_path / "no-such-compiler"))
    assert name.endswith("-py3-none-any.whl")
    assert not [file for file in files if "libexgate" in file or file.endswith((".cpp", ".h"))]
    assert {"exgate/py.typed", "exgate/recipes/small.toml"} <= set(files)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_with_a_compiler_it_is_for_this_platform_and_any_python(tmp_path):
    name, files = wheel(tmp_path)
    assert "-py3-none-" in name
    assert not name.endswith("-any.whl")
    assert [file for file in files if "libexgate" in file]
    assert not [file for file in files if file.endswith((".cpp", ".h"))]
