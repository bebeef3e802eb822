"""Every pairing of encoder and decoder learns to reverse a sequence."""

from pathlib import Path

import pytest

from seqwright.inference.translator import Translator
from seqwright.training.job import Channels, train
from tests.toy import prepared

SETTINGS: dict[str, object] = {
    "rnn_num_hidden": 48,
    "cnn_num_hidden": 48,
    "num_embed_source": 24,
    "num_embed_target": 24,
    "num_layers_decoder": 2,
    "batch_size": 32,
    "learning_rate": 0.005,
    "lr_scheduler_type": "fixed_rate_inv_sqrt_t",
    "fixed_rate_lr_half_life": 1,
    "checkpoint_frequency_num_batches": 250,
    "max_num_epochs": 8,
    "max_seq_len_source": 10,
    "max_seq_len_target": 10,
}


@pytest.mark.parametrize("decoder", ["rnn", "cnn"])
@pytest.mark.parametrize("encoder", ["rnn", "cnn"])
def test_held_out_sequences_are_reversed(encoder: str, decoder: str, tmp_path: Path) -> None:
    data = prepared(tmp_path, pairs=4000)
    layers = {"encoder_type": encoder, "decoder_type": decoder, "num_layers_encoder": 2 if encoder == "cnn" else 1}
    train(Channels.under(data), tmp_path / "model", {**SETTINGS, **layers}, precision="fp32")
    seen = set((tmp_path / "train.src").read_text().splitlines())
    held_out = [line.split() for line in (tmp_path / "val.src").read_text().splitlines() if line not in seen]
    assert len(held_out) > 200
    found = Translator.load(tmp_path / "model", "cpu", "fp32").translate(held_out)
    right = sum(t.tokens == source[::-1] for t, source in zip(found, held_out, strict=True))
    assert right >= 0.99 * len(held_out)
