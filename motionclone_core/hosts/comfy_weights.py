"""Weights as they are without patches, such as LoRAs, whether or not ComfyUI has them applied just then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def as_filed(patcher: Any, key: str, weight: Tensor) -> Tensor:
    """A weight as its file has it, by its key in a ModelPatcher, whose backup holds what patches took the place of."""
    saved = patcher.backup.get(key)
    return weight if saved is None else saved.weight


def unpatched(patcher: Any, network: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Weights of a network as its file has them.

    Args:
        patcher: a ModelPatcher.
        network: whose parameters they are.
        weights: by any names.
        prefix: of the parameters' names in the backup.
    """
    keys = {id(parameter): f"{prefix}{name}" for name, parameter in network.named_parameters()}
    return {name: as_filed(patcher, keys.get(id(weight), ""), weight) for name, weight in weights.items()}
