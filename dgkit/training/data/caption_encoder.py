"""The frozen text encoder in training: captions become tokens on the CPU and embeddings on the batch's device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CaptionEncoder:
    """Tokenizer and text encoder of a model. Captions are padded and truncated to ``length`` tokens."""

    def __init__(self, tokenizer: Any, encoder: Any) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        positions = int(getattr(encoder.config, "max_position_embeddings", 77))
        # A tokenizer without its own limit states an absurdly large one.
        self.length = min(int(tokenizer.model_max_length), positions)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return the tokens of B captions, int64 [B, L]."""
        ids = self.tokenizer(list(captions), padding="max_length", max_length=self.length, truncation=True)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state, float [B, L, D], of int64 [B, L]; equal rows are computed once."""
        distinct, rows = torch.unique(tokens, dim=0, return_inverse=True)
        return self.encoder(distinct)[0][rows]

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return the embeddings of B captions, float [B, L, D], on the encoder's device."""
        return self.encode(self.tokens(captions).to(next(self.encoder.parameters()).device))
