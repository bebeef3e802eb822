"""Token embeddings."""

from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """A table of vectors with dropout on what is looked up.

    Args:
        vocab_size: rows of the table, V.
        size: width of a vector, E.
        dropout: probability with which an element of a looked-up vector is zeroed in training.
    """

    def __init__(self, vocab_size: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[..., E]` of `ids` `[...]`."""
        embedded: Tensor = self.dropout(self.table(ids))
        return embedded
