"""A run on a GPU, where there is one: train, search, resume."""

from pathlib import Path

import pytest
import torch

from seqwright.inference.translator import Translator
from seqwright.training.job import Channels, train
from tests.toy import SETTINGS
from tests.training.runs import weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a build of PyTorch for CUDA")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["rnn", "cnn"])
def test_a_run_on_cuda_trains_searches_and_resumes(
    kind: str, precision: str, channels: Channels, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "encoder_type": kind, "decoder_type": kind, "cnn_num_hidden": 16, "bleu_sample_size": 4}
    for updates in (10, 14):
        progress = train(
            channels,
            tmp_path / "model",
            {**settings, "max_num_batches": updates},
            device="cuda",
            precision=precision,
            console=None,
        )
        assert progress.updates == updates
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "model").values())
    translator = Translator.load(tmp_path / "model", "cuda", precision)
    assert len(translator.translate([["a", "b", "c"], ["h"]])) == 2
