"""The order of the packages, and the size of files."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "seqwright"

LAYERS = (
    *("errors", "files", "interrupts", "locks", "processes", "console", "hyperparameters", "devices"),
    *("remote", "data", "models", "archives", "artifacts", "importers", "model_sources", "metrics", "inference"),
    *("pictures", "training", "serving", "sagemaker", "demo", "cli"),
)
"""The packages and modules of docs/architecture.md; each imports only from those before it."""

MAX_LINES = 400


def imported(path: Path) -> Iterator[str]:
    """The packages and modules of seqwright that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("seqwright."))


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_package_imports_only_from_those_before_it() -> None:
    for path in SOURCE.rglob("*.py"):
        layer = layer_of(path)
        if layer in ("__init__", "__main__"):
            continue
        for name in imported(path):
            if name in LAYERS:
                assert LAYERS.index(name) <= LAYERS.index(layer), f"{path.relative_to(ROOT)} imports seqwright.{name}"


def test_training_and_serving_do_not_import_from_each_other() -> None:
    for layer, other in (("training", "serving"), ("serving", "training")):
        for path in (SOURCE / layer).rglob("*.py"):
            assert other not in imported(path), path


def test_the_page_lists_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for path in SOURCE.iterdir():
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in page, path
        elif path.is_dir() and path.name != "__pycache__":
            assert f"{path.name}/" in page, path


def test_no_file_has_more_lines_than_can_be_read_at_once() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs git to tell the project's files from others")
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.split():
        assert len((ROOT / name).read_text().splitlines()) <= MAX_LINES, name
