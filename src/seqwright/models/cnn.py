"""The convolutional encoder and decoder, after Gehring et al. 2017, as the original's engine has them.

Against the paper: contexts come from the encoder's states alone, without the source embeddings; residual connections
and the encoder's gradients are not scaled; attention is taken in the hidden width, unscaled.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqwright.models.embeddings import TokenEmbedding
from seqwright.models.protocols import DecoderState, Encoded, padding_bias, padding_mask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "glu": F.glu,
    "relu": torch.relu,
    "softrelu": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
"""By `cnn_activation_type`, over the channels `[..., C]`; `glu` gates one half of them with the other."""


class PositionEmbedding(nn.Module):
    """One learned vector a position, added to token embeddings; positions beyond the table use its last vector.

    Args:
        positions: rows of the table.
        size: width of a vector, E.
    """

    def __init__(self, positions: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(positions, size)

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors `[..., E]` of `positions` `[...]`, counted from 0."""
        vectors: Tensor = self.table(positions.clamp(max=self.table.num_embeddings - 1))
        return vectors


class ConvolutionBlock(nn.Module):
    """A convolution over positions and its activation, H channels in and out.

    Args:
        num_hidden: channels, H.
        kernel_width: positions that an output sees, W.
        activation: one of `ACTIVATIONS`.
    """

    def __init__(self, num_hidden: int, kernel_width: int, activation: str) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(num_hidden, num_hidden * (2 if activation == "glu" else 1), kernel_width)
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs `[B, L, H]` of `inputs` `[B, L + W - 1, H]`, which the caller has padded.

        The convolution is one matrix product over windows laid out side by side, which on a CPU takes a fraction of
        the time that convolutions over so few positions take.
        """
        windows = inputs.unfold(1, self.convolution.kernel_size[0], 1)  # [B, L, H, W]
        rows = windows.transpose(2, 3).flatten(2)  # [B, L, W · H]
        return ACTIVATIONS[self.activation](self.convolve(rows))

    def convolve(self, rows: Tensor) -> Tensor:
        """The convolution of windows laid out side by side, `[B, L, W · H]`: `[B, L, C]`."""
        return F.linear(rows, self.weight_rows(), self.convolution.bias)

    def weight_rows(self) -> Tensor:
        """The convolution's weight as that of a linear layer over windows, `[C, W · H]`."""
        return self.convolution.weight.transpose(1, 2).flatten(1)


class ConvolutionalEncoder(nn.Module):
    """Position-aware embeddings under a stack of residual convolutions, each position seeing both sides.

    Args:
        vocab_size: source vocabulary size, V.
        num_embed: embedding width, E.
        num_hidden: width of the states, H.
        num_layers: convolutions.
        kernel_width: positions that a convolution sees; odd.
        activation: one of `ACTIVATIONS`.
        max_positions: source positions with a vector of their own.
        embed_dropout: dropout on the token embeddings.
        hidden_dropout: dropout on the input of every convolution.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_embed: int,
        num_hidden: int,
        num_layers: int,
        kernel_width: int,
        activation: str,
        max_positions: int,
        embed_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = num_hidden
        self.margin = kernel_width // 2
        self.embedding = TokenEmbedding(vocab_size, num_embed, embed_dropout)
        self.positions = PositionEmbedding(max_positions, num_embed)
        self.input = nn.Linear(num_embed, num_hidden, bias=False)
        self.blocks = nn.ModuleList(ConvolutionBlock(num_hidden, kernel_width, activation) for _ in range(num_layers))
        self.hidden_dropout = nn.Dropout(hidden_dropout)

    def forward(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encode `source` ids `[B, S]` of the given `lengths` `[B]`; states are `[B, S, H]`.

        Padding is zeroed before every convolution, so that it never reaches a real position.
        """
        positions = self.positions(torch.arange(source.shape[1], device=source.device))
        hidden = self.input(self.embedding(source) + positions)
        padding = padding_mask(lengths, source.shape[1]).unsqueeze(2)
        for block in self.blocks:
            inputs = self.hidden_dropout(hidden).masked_fill(padding, 0)
            hidden = hidden + block(F.pad(inputs, (0, 0, self.margin, self.margin)))
        return Encoded.of(hidden, lengths)


class SourceMemory(NamedTuple):
    """The source side of the decoder's attention.

    Attributes:
        states: the encoder's states in the decoder's width, keys and values both, `[B, S, H]`.
        bias: zero at real positions, the most negative number at padding, `[B, S]`.
    """

    states: Tensor
    bias: Tensor


class ConvolutionalHypotheses(NamedTuple):
    """What differs between the hypotheses of a convolutional decoder.

    Attributes:
        windows: for every convolution its last W - 1 inputs, zero before the first, each `[N, W - 1, H]`.
        position: the next token's position, `[N]`.
    """

    windows: tuple[Tensor, ...]
    position: Tensor


ConvolutionalState = DecoderState[SourceMemory, ConvolutionalHypotheses]


class ConvolutionalDecoder(nn.Module):
    """Residual convolutions over the tokens so far, each followed by dot-product attention over the source.

    Layer by layer, `h' = h + c + attention(c)` with `c` the convolution's output.

    Args:
        vocab_size: target vocabulary size, V.
        num_embed: embedding width, E.
        num_hidden: width of the layers and of the output, H.
        num_layers: convolutions.
        kernel_width: positions that a convolution sees, the current one and those before it.
        activation: one of `ACTIVATIONS`.
        max_positions: target positions with a vector of their own.
        encoder_size: width of the encoder's states; where it is not H, a layer without bias maps them to H.
        embed_dropout: dropout on the token embeddings.
        hidden_dropout: dropout on the input of every convolution.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_embed: int,
        num_hidden: int,
        num_layers: int,
        kernel_width: int,
        activation: str,
        max_positions: int,
        encoder_size: int,
        embed_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = num_hidden
        self.history = kernel_width - 1
        self.embedding = TokenEmbedding(vocab_size, num_embed, embed_dropout)
        self.positions = PositionEmbedding(max_positions, num_embed)
        self.input = nn.Linear(num_embed, num_hidden, bias=False)
        blocks = nn.ModuleList(ConvolutionBlock(num_hidden, kernel_width, activation) for _ in range(num_layers))
        self.blocks = cast(Sequence[ConvolutionBlock], blocks)
        self.bridge = nn.Linear(encoder_size, num_hidden, bias=False) if encoder_size != num_hidden else nn.Identity()
        self.hidden_dropout = nn.Dropout(hidden_dropout)

    def forward(self, encoded: Encoded, target_in: Tensor) -> Tensor:
        """Hidden vectors `[B, T, H]` for the tokens that follow each of `target_in` `[B, T]`."""
        memory = self._remember(encoded)
        positions = self.positions(torch.arange(target_in.shape[1], device=target_in.device))
        hidden: Tensor = self.input(self.embedding(target_in) + positions)
        for block in self.blocks:
            convolved = block(F.pad(self.hidden_dropout(hidden), (0, 0, self.history, 0)))
            context, _ = attend(convolved, memory)
            hidden = hidden + convolved + context
        return hidden

    def start(self, encoded: Encoded) -> ConvolutionalState:
        """The state before the first token, with one hypothesis for each sentence."""
        empty = encoded.states.new_zeros(len(encoded.lengths), self.history, self.output_size)
        position = torch.zeros_like(encoded.lengths)
        return DecoderState(self._remember(encoded), ConvolutionalHypotheses((empty,) * len(self.blocks), position))

    def step(self, token: Tensor, state: ConvolutionalState) -> tuple[Tensor, Tensor, ConvolutionalState]:
        """Feed `token` `[N]`: hidden vectors `[N, H]`, attention `[N, S]` averaged over layers, and the next state."""
        memory, before = state.memory, state.hypotheses
        hidden: Tensor = self.input(self.embedding(token) + self.positions(before.position))  # [N, H]
        windows, attended = [], []
        sentences = len(memory.states)
        for block, past in zip(self.blocks, before.windows, strict=True):
            window = torch.cat([past.to(hidden.dtype), self.hidden_dropout(hidden).unsqueeze(1)], dim=1)  # [N, W, H]
            windows.append(window[:, 1:])
            convolved = block(window).squeeze(1)  # [N, H]
            context, weights = attend(convolved.view(sentences, -1, self.output_size), memory)
            attended.append(weights.flatten(0, 1))
            hidden = hidden + convolved + context.flatten(0, 1)
        mean = torch.stack(attended).mean(0)  # [N, S]
        return hidden, mean, DecoderState(memory, ConvolutionalHypotheses(tuple(windows), before.position + 1))

    def _remember(self, encoded: Encoded) -> SourceMemory:
        states = self.bridge(encoded.states)
        return SourceMemory(states, padding_bias(encoded.lengths, states.shape[1], states.dtype))


def attend(queries: Tensor, memory: SourceMemory) -> tuple[Tensor, Tensor]:
    """Dot-product attention of `queries` `[B, Q, H]`: contexts `[B, Q, H]` and weights `[B, Q, S]`."""
    scores = torch.bmm(queries, memory.states.transpose(1, 2)) + memory.bias.unsqueeze(1)
    weights = torch.softmax(scores, dim=2)
    return torch.bmm(weights, memory.states.to(weights.dtype)), weights
