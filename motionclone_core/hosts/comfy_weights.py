"""Weights as they are without patches, such as LoRAs, whether or not ComfyUI has them applied just then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def unpatched(patcher: Any, network: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Weights of a network as its file has them.

    Args:
        patcher: a ModelPatcher; its backup holds what patches took the place of.
        network: whose parameters they are.
        weights: by any names.
        prefix: of the parameters' names in the backup.
    """
    keys = {id(parameter): f"{prefix}{name}" for name, parameter in network.named_parameters()}
    kept = {name: patcher.backup.get(keys.get(id(weight), "")) for name, weight in weights.items()}
    return {name: weight if kept[name] is None else kept[name].weight for name, weight in weights.items()}
