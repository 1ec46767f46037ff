"""Adapters of a frozen encoder: Rein's tokens between the blocks, LoRA in the attention, and freezing itself.

Source of Rein: Wei et al., Stronger, Fewer & Superior (CVPR 2024), section 3.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dgkit.optional import require

LORA_TARGETS = ["q_proj", "v_proj"]  # Source: Hu et al., LoRA (ICLR 2022), section 4.2
_ADAPTERS = ("rein.", "lora_")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class Rein(nn.Module):
    """Refines the patch features after each of ``blocks`` blocks by ``tokens`` learnt tokens of low ``rank``.

    T_i = A_i B_i; S = softmax(f T_i^T / sqrt(c)); f <- f + s MLP_f(S[:, 1:] MLP_T(T_i)[1:] + f), with one linear layer
    for each MLP, shared by all blocks. ``patch`` is the side of a patch in pixels, for the initial range of A and B.
    ``queries``: width of the queries that a query head gets, 0 for none.
    """

    def __init__(self, blocks: int, width: int, patch: int, tokens: int = 100, rank: int = 16, queries: int = 0):
        super().__init__()
        limit = math.sqrt(6 / (3 * patch**2 + math.sqrt(width * rank)))
        self.down = nn.Parameter(torch.empty(blocks, tokens, rank).uniform_(-limit, limit))
        self.up = nn.Parameter(torch.empty(blocks, rank, width).uniform_(-limit, limit))
        self.token_map = nn.Linear(width, width)
        self.delta_map = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(0.001))
        self.query_map = nn.Linear(width, queries) if queries else None
        self.query_join = nn.Linear(3 * queries, queries) if queries else None

    def forward(self, features: Tensor, block: int) -> Tensor:
        """Return the refined features of ``block``, [N,P,c] of patches alone."""
        tokens = self.down[block] @ self.up[block]
        weights = (features @ tokens.T / math.sqrt(features.shape[-1])).softmax(-1)
        delta = weights[..., 1:] @ self.token_map(tokens[1:])
        return features + self.scale * self.delta_map(delta + features)

    def make_queries(self) -> Tensor:
        """Return the tokens as queries [tokens, queries]: largest, mean and last over the blocks, joined."""
        assert self.query_map is not None and self.query_join is not None
        found = self.query_map(self.down @ self.up)
        return self.query_join(torch.cat([found.amax(0), found.mean(0), found[-1]], dim=-1))


def add_lora(encoder: nn.Module, rank: int, alpha: float) -> None:
    """Add LoRA of ``rank``, scaled by ``alpha`` / ``rank``, to queries and values. Raises MissingDependency."""
    peft = require("peft", "train")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS, lora_dropout=0.0)
    peft.inject_adapter_in_model(config, encoder)


def is_adapter(name: str) -> bool:
    """Return whether a parameter or buffer of a backbone belongs to an adapter."""
    return any(part in name for part in _ADAPTERS)


def freeze_parameters(backbone: nn.Module, freeze: bool | str) -> None:
    """Stop the training of the encoder, except adapters (``freeze`` True), or of its norms ("norms")."""
    if freeze == "norms":
        for norm in _norms(backbone):
            norm.requires_grad_(False)
    elif freeze:
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(is_adapter(name))


def keep_frozen(backbone: nn.Module, freeze: bool | str) -> None:
    """Keep what is frozen in eval mode, so that statistics do not change and nothing is dropped."""
    if freeze == "norms":
        for norm in _norms(backbone):
            norm.eval()
    elif freeze:
        backbone.eval()


def _norms(backbone: nn.Module) -> Iterator[nn.Module]:
    return (module for module in backbone.modules() if isinstance(module, _NORMS))
