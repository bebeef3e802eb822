"""The schema of the hyperparameters, and whether values are accepted."""

from typing import Any

import pytest

from seqwright.errors import ClientError
from seqwright.hyperparameters import Hyperparameters

SCHEMA: dict[str, dict[str, Any]] = Hyperparameters.model_json_schema()["properties"]
CHOICES = {name: schema["enum"] for name, schema in SCHEMA.items() if "enum" in schema}


def refusal(**values: object) -> str:
    """The message that these values are refused with."""
    with pytest.raises(ClientError) as caught:
        Hyperparameters.parse(values)
    return str(caught.value)


REQUIRED_WITH: dict[str, dict[str, object]] = {
    "momentum": {"optimizer_type": "sgd"},
    "lr_cooldown_num_batches": {"max_num_batches": 10**12},
}
"""Other hyperparameters without which one is refused."""


def accepts(name: str, value: object) -> bool:
    """Whether a value is in range, given with the hyperparameters that it requires."""
    try:
        Hyperparameters.parse({**REQUIRED_WITH.get(name, {}), name: value})
    except ClientError:
        return False
    return True
