"""Private names of dependencies: which there are, and the bounds that keep them from disappearing unnoticed."""

import re
import tomllib
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(r"\b(torch|uvicorn|starlette|pydantic|fsspec|rich|typer|safetensors)((?:\.\w+)*)\.(_[a-z]\w*)\b")
IMPORTED = re.compile(
    r"^\s*from (torch|uvicorn|starlette|pydantic|fsspec|rich|typer|safetensors)([\w.]*) import (_\w+)",
    re.MULTILINE,
)

# A third of a product's time is spent on rearranging the weight, and no public operation multiplies with one that was
# rearranged before (models/linear.py).
WANTED = {
    "torch.ops.mkldnn._reorder_linear_weight",
    "torch.ops.mkldnn._linear_pointwise",
    "torch.ops.mkldnn._is_mkldnn_bf16_supported",
}


def test_private_names_of_dependencies_are_those_that_are_wanted() -> None:
    texts = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    found = {"".join(match[:2]) + "." + match[2] for text in texts for match in PRIVATE.findall(text)}
    found |= {"".join(match[:2]) + "." + match[2] for text in texts for match in IMPORTED.findall(text)}
    assert found == WANTED


def test_torch_has_an_upper_bound_because_of_its_private_names() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bound,) = [each for each in dependencies if re.match(r"torch\b", each)]
    assert re.search(r"<\d", bound)
    major, minor = map(int, torch.__version__.split(".")[:2])
    (limit,) = re.findall(r"<(\d+)\.(\d+)", bound)
    assert (major, minor) < tuple(map(int, limit))


def test_the_private_names_of_torch_are_there() -> None:
    weight, inputs = torch.randn(16, 8), torch.randn(3, 8)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, 64)
    product = torch.ops.mkldnn._linear_pointwise(inputs, packed, None, "tanh", [], "")
    torch.testing.assert_close(product, torch.tanh(inputs @ weight.t()))
    assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)
