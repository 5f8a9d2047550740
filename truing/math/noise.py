"""How strong the noise on embeddings is."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def neftune_magnitude(num_tokens: Int[Tensor, "*S"], *, width: int, alpha: float) -> Float[Tensor, "*S"]:
    """Return alpha / sqrt(L d), the bound of the uniform noise on each number of an embedding.

    Jain et al. 2023, arXiv:2310.05914, algorithm 1: the noise of a row has a norm near alpha / sqrt(3),
    however long the row and wide the embedding.

    Args:
        num_tokens: L, tokens of the row without padding, >= 1.
        width: d, of the embeddings.
        alpha: strength; 5, 10 or 15 in the paper.
    """
    return alpha / (num_tokens * width).sqrt()
