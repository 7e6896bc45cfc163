"""Who may import whom, what `import exgate` loads, and what the files are called (docs/design/001-imports.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "exgate"
FILES = sorted(PACKAGE.rglob("*.py"))

# For each folder of exgate, the folders that its files may import besides itself.
MAY_IMPORT = {
    "ops": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "data": set(),
    "train": {"ops", "layers", "models"},
    "evaluate": {"ops", "layers", "models"},
    "forecast": {"ops", "layers", "models"},
    "generate": {"ops", "layers"},
    "cli": {"ops", "layers", "models", "data", "train", "evaluate", "forecast", "generate"},
    "": {"ops", "layers", "models"},  # exgate/__init__.py
}
# Files beside the folders, which all but ops may import and which import nothing else of exgate.
LEAVES = {"exgate.files", "exgate.figure", "exgate.hint"}
# `model.generate(...)` is what people type. `generate` works on anything that follows the model contract and never
# imports `models`, so the import inside that one method makes no cycle.
EXCEPTIONS = {("models/lm.py", "exgate.generate.sampling", "generate")}

# Optional packages, imported inside functions only (but for an adapter's own library, whose classes it derives from),
# and the ones that only the command line needs.
ONLY_INSIDE_FUNCTIONS = {
    "datasets", "gluonts", "huggingface_hub", "matplotlib", "neuralforecast", "pandas", "polars", "sktime",
    "statsforecast", "statsmodels", "tensorboard", "tokenizers", "transformers", "utilsforecast",
}  # fmt: skip
ALLOWED_OUTSIDE_CLI = {"torch", "numpy", "safetensors", "exgate"} | set(sys.stdlib_module_names)


def folder(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return "cli" if parts == ("__main__.py",) else parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> list[tuple[str, str | None]]:
    """Every (module, name of the function around it or None) that a file imports, at any depth."""
    found: list[tuple[str, str | None]] = []
    here = ["exgate", *path.relative_to(PACKAGE).with_suffix("").parts]

    def visit(node: ast.AST, function: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue  # names for annotations are not loaded
            if isinstance(child, ast.Import):
                found.extend((alias.name, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:
                    module = ".".join([*here[: -child.level], *filter(None, [module])])
                names = [f"exgate.{alias.name}" for alias in child.names] if module == "exgate" else [module]
                found.extend((name, function) for name in names)
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module"):
                argument = child.args[0] if child.args else None
                if isinstance(argument, ast.Constant):
                    found.append((str(argument.value), function))
                elif isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
                    found.append((str(argument.values[0].value).rstrip("."), function))
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            visit(child, inner)

    visit(ast.parse(path.read_text()), None)
    return found


def test_there_are_files_to_check():
    assert {folder(path) for path in FILES} <= set(MAY_IMPORT), "a new folder needs a line in MAY_IMPORT"
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_import_direction(path: Path):
    home = folder(path)
    for module, function in imports(path):
        if module.split(".")[0] != "exgate":
            continue
        where = str(path.relative_to(PACKAGE))
        target = module.split(".")[1] if "." in module else ""
        if (where, module, function) in EXCEPTIONS or (module in LEAVES and home != "ops"):
            continue
        assert not module.startswith("exgate.forecast.adapters"), (
            f"{where} imports {module}: its library may be missing"
        )
        assert f"exgate.{path.stem}" not in LEAVES or home, f"{where} imports {module}: a leaf imports leaves alone"
        if not (PACKAGE / target).is_dir() or target == "":
            # A name of exgate/__init__.py, which imports everything: only the command line may stand above it.
            assert home in {"cli", ""}, f"{where} imports {module}: import the file that defines it"
            continue
        assert target == home or target in MAY_IMPORT[home], f"{where} imports {module}: {home} may not import {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_foreign_imports(path: Path):
    for module, function in imports(path):
        top = module.split(".")[0]
        where = str(path.relative_to(PACKAGE))
        if where == f"forecast/adapters/{top}.py":
            continue
        if top in ONLY_INSIDE_FUNCTIONS or module.startswith("torch.utils.tensorboard"):
            assert function is not None, f"{where} imports {module} at the top: import it inside the function"
        elif top == "triton":  # files of kernels, which a launch imports
            kernels = path.name.startswith("triton_") and folder(path) == "ops"
            assert kernels or function is not None, f"{where} imports triton at the top: name it exgate/ops/triton_*.py"
        elif function is None and folder(path) == "ops":
            assert top in {"torch", "exgate"} | set(sys.stdlib_module_names), f"{where}: ops stand on torch alone"
        elif function is None and folder(path) not in {"cli", "train"}:
            assert top in ALLOWED_OUTSIDE_CLI, f"{where} imports {module} at the top"


PROBE = """
import sys, torch
before = set(sys.modules)
import exgate
loaded = {name.split(".")[0] for name in sys.modules}
new = set(sys.modules) - before
unwanted = loaded & {"triton", "matplotlib", "tokenizers", "datasets", "tensorboard", "transformers", "tyro", "rich",
                     "pandas", "huggingface_hub", "xlstm", "mlstm_kernels", "pydoc_data"}
assert not unwanted, f"import exgate loads {sorted(unwanted)}"
heavy = sorted(name for name in new if name.startswith(("torch._dynamo", "torch._inductor", "torch.utils.cpp_extension",
                                                        "torch.distributed.", "torch.onnx")))
assert not heavy, f"import exgate loads {heavy}"
assert not torch.cuda.is_initialized(), "import exgate starts CUDA"
print(len(new))
"""


def test_import_exgate_is_small():
    result = subprocess.run([sys.executable, "-W", "error", "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 150, f"import exgate loads {result.stdout.strip()} modules beyond those of torch"


ABSENT = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import exgate, torch
from exgate.models import io
for name in io.names():
    io._architecture(name)
model = exgate.build(exgate.models.xlstm.Config(vocab_size=7, dim=8, blocks=2, pattern="ms", multiple=8))
model.loss(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long))[0].backward()
exgate.save(model, sys.argv[1])
exgate.load(sys.argv[1])
"""


def test_models_need_no_triton(tmp_path: Path):
    """Most machines have none: CPU builds of PyTorch come without it, and Windows and macOS have no wheel."""
    command = [sys.executable, "-W", "error", "-c", ABSENT, str(tmp_path / "model")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_public_names():
    import exgate

    for name in exgate.__all__:
        assert getattr(exgate, name) is not None
    assert exgate.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_named_by_their_noun(path: Path):
    assert path.stem not in {"utils", "util", "helpers", "common", "base", "misc"}, f"name {path} by what it holds"
    assert path.name != "torch.py", f"{path} would rebind the name torch in its package"
    assert not {"utils", "common", "base"} & set(path.relative_to(PACKAGE).parts[:-1])
