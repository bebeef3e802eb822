"""The whole model: source → encoder → decoder → logits, and its construction from hyperparameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqwright.hyperparameters import Hyperparameters
from seqwright.models.cnn import ConvolutionalDecoder, ConvolutionalEncoder
from seqwright.models.initializers import initialize
from seqwright.models.protocols import Decoder, DecoderState, Encoded, Encoder
from seqwright.models.rnn import RecurrentEncoder
from seqwright.models.rnn_decoder import RecurrentDecoder


class Seq2Seq(nn.Module):
    """An encoder, a decoder and the output layer over the target vocabulary.

    Args:
        encoder: any encoder module.
        decoder: any decoder module built for that encoder's width.
        target_vocab_size: rows of the output layer, V.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, target_vocab_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.output_layer = nn.Linear(decoder.output_size, target_vocab_size)

    def encode(self, source: Tensor, source_lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given lengths `[B]`."""
        return self.encoder(source, source_lengths)

    def forward(self, source: Tensor, source_lengths: Tensor, target_in: Tensor) -> Tensor:
        """Hidden vectors `[B, T, H]` for the tokens that follow each of `target_in` `[B, T]`."""
        return self.decoder(self.encode(source, source_lengths), target_in)

    def start(self, source: Tensor, source_lengths: Tensor) -> DecoderState[Any, Any]:
        """As `SearchModel.start`."""
        return self.decoder.start(self.encode(source, source_lengths))

    def step(
        self, token: Tensor, state: DecoderState[Any, Any], rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, DecoderState[Any, Any]]:
        """As `SearchModel.step`."""
        hidden, attention, state = self.decoder.step(token, state)
        # The output layer is half of a step's work: only hypotheses that may go on pass through it.
        return self.log_probabilities(hidden if rows is None else hidden.index_select(0, rows)), attention, state

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Log probabilities of the next token in fp32, `[..., V]`, from hidden vectors `[..., H]`."""
        logits: Tensor = self.output_layer(hidden)
        return torch.log_softmax(logits.float(), dim=-1)


def _recurrent_encoder(settings: Hyperparameters, vocab_size: int) -> Encoder:
    return RecurrentEncoder(
        vocab_size=vocab_size,
        num_embed=settings.num_embed_source,
        num_hidden=settings.rnn_num_hidden,
        num_layers=settings.num_layers_encoder,
        cell_type=settings.rnn_cell_type,
        embed_dropout=settings.embed_dropout_source,
        first_residual_layer=settings.rnn_first_residual_layer if settings.rnn_residual_connections else None,
    )


def _recurrent_decoder(settings: Hyperparameters, vocab_size: int, encoder_size: int) -> Decoder:
    return RecurrentDecoder(
        vocab_size=vocab_size,
        num_embed=settings.num_embed_target,
        num_hidden=settings.rnn_num_hidden,
        num_layers=settings.num_layers_decoder,
        cell_type=settings.rnn_cell_type,
        encoder_size=encoder_size,
        attention_type=settings.rnn_attention_type,
        attention_num_hidden=settings.attention_num_hidden,
        attention_in_upper_layers=settings.rnn_attention_in_upper_layers,
        state_init=settings.rnn_decoder_state_init,
        embed_dropout=settings.embed_dropout_target,
        hidden_dropout=settings.rnn_decoder_hidden_dropout,
        first_residual_layer=settings.rnn_first_residual_layer if settings.rnn_residual_connections else None,
    )


def _convolutional_encoder(settings: Hyperparameters, vocab_size: int) -> Encoder:
    return ConvolutionalEncoder(
        vocab_size=vocab_size,
        num_embed=settings.num_embed_source,
        num_hidden=settings.cnn_num_hidden,
        num_layers=settings.num_layers_encoder,
        kernel_width=settings.cnn_kernel_width_encoder,
        activation=settings.cnn_activation_type,
        max_positions=settings.max_seq_len_source + 1,
        embed_dropout=settings.embed_dropout_source,
        hidden_dropout=settings.cnn_hidden_dropout,
    )


def _convolutional_decoder(settings: Hyperparameters, vocab_size: int, encoder_size: int) -> Decoder:
    return ConvolutionalDecoder(
        vocab_size=vocab_size,
        num_embed=settings.num_embed_target,
        num_hidden=settings.cnn_num_hidden,
        num_layers=settings.num_layers_decoder,
        kernel_width=settings.cnn_kernel_width_decoder,
        activation=settings.cnn_activation_type,
        max_positions=settings.max_seq_len_target + 1,
        encoder_size=encoder_size,
        embed_dropout=settings.embed_dropout_target,
        hidden_dropout=settings.cnn_hidden_dropout,
    )


ENCODERS: dict[str, Callable[[Hyperparameters, int], Encoder]] = {
    "rnn": _recurrent_encoder,
    "cnn": _convolutional_encoder,
}
"""Builders by `encoder_type`, called with the hyperparameters and the source vocabulary size."""

DECODERS: dict[str, Callable[[Hyperparameters, int, int], Decoder]] = {
    "rnn": _recurrent_decoder,
    "cnn": _convolutional_decoder,
}
"""Builders by `decoder_type`, called with the hyperparameters, the target vocabulary size and the encoder's width."""


def build_model(settings: Hyperparameters, source_vocab_size: int, target_vocab_size: int) -> Seq2Seq:
    """The model that the hyperparameters describe, its parameters not yet initialised."""
    encoder = ENCODERS[settings.encoder_type](settings, source_vocab_size)
    decoder = DECODERS[settings.decoder_type](settings, target_vocab_size, encoder.output_size)
    return Seq2Seq(encoder, decoder, target_vocab_size)


def initialize_model(model: Seq2Seq, settings: Hyperparameters, seed: int) -> None:
    """Initialise every parameter of `model` as the hyperparameters say; the same seed gives the same parameters."""
    initialize(
        model,
        weight_init_type=settings.weight_init_type,
        scale=settings.weight_init_scale,
        xavier_factor_type=settings.xavier_factor_type,
        generator=torch.Generator().manual_seed(seed),
    )
