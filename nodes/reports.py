"""What guided runs say of themselves: in the node while ComfyUI works, and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from server import PromptServer

from ..motionclone_core.hosts.comfy_runtime import RunSummary
from ..motionclone_core.visualisation.plot import energy_plot


def show(node: str, text: str) -> None:
    """Show a text in a node of the graph editor; ``node`` is the number that ComfyUI hands to `execute`."""
    PromptServer.instance.send_progress_text(text, node)


def shown_in(node: str) -> Callable[[RunSummary], None]:
    """What shows the report of a run in a node when the run ends."""
    return lambda summary: show(node, str(summary))


def plot_of(reports: Sequence[RunSummary]) -> torch.Tensor:
    """The energies of one run or several over their steps, as an IMAGE ``[1, H, W, 3]``."""
    names = [""] if len(reports) == 1 else [f"run {number}" for number in range(1, len(reports) + 1)]
    runs = {name: sorted(report.energies.items()) for name, report in zip(names, reports, strict=True)}
    guided = {step for report in reports for step in report.guided}
    picture = energy_plot(runs, max((report.total for report in reports), default=1), guided=guided)
    return torch.from_numpy(picture)[None].float() / 255
