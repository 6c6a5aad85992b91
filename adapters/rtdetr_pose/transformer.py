"""Attention layers with the keys of torch's own, written out so that every runtime computes the same formula.

torch's ``TransformerEncoderLayer`` takes a fused path in eval mode without gradients, another one with them, and a
third when it is traced. These layers have one path. Post-norm, ReLU, no dropout. B batch, Q queries, T tokens, D width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from bench.types import Array

POSITION_BASE = 10000.0


class Attention(nn.Module):
    """Multi-head attention with one packed input projection (``in_proj_weight``, rows q, k, v)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, blocked: Tensor | None = None) -> Tensor:
        """(B, Q, D) attends to (B, T, D) -> (B, Q, D). ``blocked``: (Q, T) or (B, 1, Q, T) bool, True: not seen."""
        width = self.out_proj.in_features
        q = self._project(queries, 0)
        k, v = self._project(keys, width), self._project(keys, 2 * width)
        seen = None if blocked is None else ~blocked
        # the scale is torch's own; as a number it does not become a chain of nodes in an exported graph
        mixed = functional.scaled_dot_product_attention(q, k, v, seen, scale=(width // self.heads) ** -0.5)
        return self.out_proj(mixed.transpose(1, 2).reshape(-1, int(queries.shape[1]), width))

    def _project(self, x: Tensor, first: int) -> Tensor:
        """(B, T, D) -> (B, heads, T, D / heads) by the rows of the packed projection from ``first`` on."""
        width = self.out_proj.in_features
        rows = slice(first, first + width)
        projected = functional.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return projected.view(-1, int(x.shape[1]), self.heads, width // self.heads).transpose(1, 2)


class EncoderLayer(nn.Module):
    """Self-attention over tokens, then two linear layers."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens))
        return self.norm2(tokens + self.linear2(functional.relu(self.linear1(tokens))))


class DecoderLayer(nn.Module):
    """Self-attention over queries, attention to the memory, then two linear layers."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.multihead_attn = Attention(width, heads)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, blocked: Tensor | None = None) -> Tensor:
        """(B, Q, D), (B, T, D) -> (B, Q, D). ``blocked``: (Q, Q) bool, pairs of queries that do not see each other."""
        queries = self.norm1(queries + self.self_attn(queries, queries, blocked))
        queries = self.norm2(queries + self.multihead_attn(queries, memory))
        return self.norm3(queries + self.linear2(functional.relu(self.linear1(queries))))


class EncoderStack(nn.Module):
    """Encoder layers one after another, under the key ``layers``."""

    def __init__(self, count: int, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward) for _ in range(count))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class DecoderStack(nn.Module):
    """Decoder layers one after another, under the key ``layers``."""

    def __init__(self, count: int, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward) for _ in range(count))

    def forward(self, queries: Tensor, memory: Tensor, blocked: Tensor | None = None) -> list[Tensor]:
        """(B, Q, D), (B, T, D) -> one (B, Q, D) per layer."""
        found = []
        for layer in self.layers:
            queries = layer(queries, memory, blocked)
            found.append(queries)
        return found


@lru_cache(maxsize=32)
def _position_table(height: int, width: int, channels: int) -> Array:
    quarter = channels // 4
    rates = POSITION_BASE ** (-np.arange(quarter) / quarter)
    y, x = np.arange(height)[:, None] * rates, np.arange(width)[:, None] * rates
    table = np.empty((height, width, 4 * quarter))
    table[..., : 2 * quarter] = np.concatenate((np.sin(y), np.cos(y)), 1)[:, None]
    table[..., 2 * quarter :] = np.concatenate((np.sin(x), np.cos(x)), 1)[None]
    return table.reshape(height * width, -1)


def position_encoding(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """(height * width, channels) rows sin(y), cos(y), sin(x), cos(x) of cell indices, row by row.

    Computed in float64 by numpy and rounded once to the dtype of ``like``: an exported graph then holds it as a
    constant.
    """
    return torch.as_tensor(_position_table(height, width, channels), dtype=like.dtype, device=like.device)
