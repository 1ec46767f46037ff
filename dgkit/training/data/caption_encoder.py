"""The frozen text encoder in training: captions become tokens on the CPU and embeddings on the batch's device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.diffusion.tokenizer_files import TokenizerPair

_IDS = ("input_ids", "input_ids_2")


class CaptionEncoder:
    """Tokenizer and text encoder of a model. Captions are padded and truncated to ``length`` tokens.

    For SDXL they are a :class:`TokenizerPair` and :class:`~dgkit.engines.modules.TextEncoders`; ``pair`` is then True.
    With ``zero_empty`` the embeddings of an empty caption are zeros.
    """

    def __init__(self, tokenizer: Any, encoder: Any, zero_empty: bool = False) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.pair, self.zero_empty = isinstance(tokenizer, TokenizerPair), zero_empty
        encoders = (encoder.first, encoder.second) if self.pair else (encoder,)
        tokenizers = (tokenizer.first, tokenizer.second) if self.pair else (tokenizer,)
        positions = [int(getattr(one.config, "max_position_embeddings", 77)) for one in encoders]
        self.width = sum(int(getattr(one.config, "hidden_size", 0)) for one in encoders)
        # A tokenizer without its own limit states an absurdly large one.
        self.length = min(*(int(one.model_max_length) for one in tokenizers), *positions)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return the tokens of B captions, int64 [B, L], those of a pair [B, 2, L]."""
        found = self.tokenizer(list(captions), padding="max_length", max_length=self.length, truncation=True)
        ids = [torch.tensor(found[name], dtype=torch.int64) for name in _IDS if name in found]
        return torch.stack(ids, dim=1) if self.pair else ids[0]

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the embeddings of the result of :meth:`tokens`; equal rows are computed once.

        ``text`` float [B, L, D]; for a pair also ``text_embeds`` float [B, P].
        """
        distinct, rows = torch.unique(tokens, dim=0, return_inverse=True)
        if not self.pair:
            return {"text": self.encoder(distinct)[0][rows]}
        text, pooled = self.encoder(distinct[:, 0], distinct[:, 1])
        if self.zero_empty:
            kept = (distinct != self.tokens([""]).to(distinct.device)).flatten(1).any(dim=1)
            text, pooled = text * kept[:, None, None], pooled * kept[:, None]
        return {"text": text[rows], "text_embeds": pooled[rows]}

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings of B captions as :meth:`encode` does, on the encoder's device."""
        return self.encode(self.tokens(captions).to(next(self.encoder.parameters()).device))

    def packed(self, captions: Sequence[str]) -> np.ndarray:
        """Return the embeddings of B captions as one float32 array: [B, L, D], those of a pair [B, L * D + P]."""
        found = {name: value.float().cpu() for name, value in self(captions).items()}
        whole = torch.cat([value.flatten(1) for value in found.values()], dim=1) if self.pair else found["text"]
        return whole.numpy()

    def unpacked(self, values: np.ndarray) -> dict[str, Tensor]:
        """Return the embeddings of one caption, float32, from its row of :meth:`packed`."""
        whole = torch.from_numpy(values.astype(np.float32))
        if not self.pair:
            return {"text": whole}
        end = self.length * self.width
        return {"text": whole[:end].reshape(self.length, self.width), "text_embeds": whole[end:]}
