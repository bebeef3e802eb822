"""Model folders and `model.tar.gz` archives: writing, copying, loading and checking them.

A model has five files: `config.json`, `model.safetensors`, `vocab.src.json`, `vocab.trg.json` and `metrics.json`. The
metadata of the weights has a digest of the tensors, so that each file can be replaced by itself.
"""

from seqwright.artifacts.format import (
    CONFIG,
    DIGEST,
    FILES,
    MAX_CONFIG_BYTES,
    METRICS,
    SOURCE_VOCABULARY,
    TARGET_VOCABULARY,
    WEIGHTS,
    Config,
    LengthRatio,
    TrainedModel,
    digest_of,
)
from seqwright.artifacts.loading import load_model
from seqwright.artifacts.saving import copy_model, discard_unfinished, require_same_model, save_model, write_tensors

__all__ = [
    "CONFIG",
    "DIGEST",
    "FILES",
    "MAX_CONFIG_BYTES",
    "METRICS",
    "SOURCE_VOCABULARY",
    "TARGET_VOCABULARY",
    "WEIGHTS",
    "Config",
    "LengthRatio",
    "TrainedModel",
    "copy_model",
    "digest_of",
    "discard_unfinished",
    "load_model",
    "require_same_model",
    "save_model",
    "write_tensors",
]
