"""The hyperparameters: `fields` states each once, `parsing` reads what users write, `documentation` lists them."""

from seqwright.hyperparameters.documentation import documentation_page
from seqwright.hyperparameters.fields import Hyperparameters
from seqwright.hyperparameters.parsing import parse_assignments, with_tuning_objective

__all__ = ["Hyperparameters", "documentation_page", "parse_assignments", "with_tuning_objective"]
