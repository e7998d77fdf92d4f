"""Bytes that live tensors hold, counted on any device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make while the mode is on, until they are freed.

    Args:
        place: names the layer that is running, for the account of what lives.
    """

    def __init__(self, place: Callable[[], str] = str) -> None:
        super().__init__()
        self._place = place
        self._seen: set[int] = set()
        self.by_place: Counter[str] = Counter()
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if id(storage) not in given:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self._seen:
            return
        size, place = storage.nbytes(), self._place()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.by_place[place] += size
        weakref.finalize(storage, self._free, key, size, place)

    def _free(self, key: int, size: int, place: str) -> None:
        self._seen.discard(key)
        self.now -= size
        self.by_place[place] -= size
