"""The conditions of one step: which is the positive one, and its prediction apart from the others'."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import Tensor

from .comfy_controls import forget_batches

Conditions = Sequence[list | None]


def index_of(positive: Collection[Any], conds: Conditions) -> int | None:
    """Which of a batch's conditions has entries of these uuids; guiders order them differently."""
    found = (i for i, cond in enumerate(conds) if cond and any(entry["uuid"] in positive for entry in cond))
    return next(found, None)


def predicted_apart(
    predict: Callable[[list[list | None]], list[Tensor]],
    conds: Conditions,
    index: int,
    meanwhile: AbstractContextManager,
) -> list[Tensor]:
    """The predictions of some conditions: that of one first, then those of the others in one batch.

    Args:
        predict: gives a prediction for each of a batch's conditions; of None it means nothing.
        conds: the conditions.
        index: of the one that is apart.
        meanwhile: entered while it is predicted.
    """
    with meanwhile:
        prediction = predict([cond if i == index else None for i, cond in enumerate(conds)])[index]
    throw_exception_if_processing_interrupted()
    forget_batches(conds)
    others = [None if i == index else cond for i, cond in enumerate(conds)]
    if all(cond is None for cond in others):
        predictions = [torch.zeros_like(prediction) for _ in conds]
    else:
        predictions = predict(others)
    predictions[index] = prediction
    return predictions
