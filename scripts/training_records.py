"""How the parts of the embedded model were made: noted beside them, checked, and told on the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from motionclone_core.paths import write_whole


class Refused(ValueError):
    """What was asked for does not fit what the folder holds."""


def note(target: Path, **facts: Any) -> None:
    """Keep beside a file the options that it is made with, named as on the command line, and the seconds."""
    named = {name.replace("_", "-"): fact for name, fact in facts.items()}
    write_whole(target.with_suffix(".json"), json.dumps(named).encode())


def noted(target: Path) -> dict[str, Any]:
    """What `note` kept; nothing for the files of older versions, which kept nothing."""
    page = target.with_suffix(".json")
    return json.loads(page.read_text(encoding="utf-8")) if page.exists() else {}


def check_same(target: Path, option: str, asked: int, found: int) -> None:
    """Raise `Refused` where a file that is there was made with another option than is asked for."""
    if asked != found:
        raise Refused(
            f"{target} was made with --{option} {found}, and --{option} {asked} is asked for: "
            f"ask for {found}, or give another --folder"
        )


def known_state(saved: dict[str, Any]) -> dict[str, Any]:
    """The state of training: what was saved of it, and of what was not (an older version knew less), its beginning."""
    beginning: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": [], "recent": [], "runs": []}
    return {name: saved.get(name, value) for name, value in beginning.items()}


def unknown_steps(state: dict[str, Any]) -> int:
    """Up to which step a checkpoint does not know how it was trained: an older version did not note its runs."""
    return state["runs"][0]["first"] if state["runs"] else state["step"]


def ended_runs(state: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """The runs, each with its last step."""
    bounds = [*(run["first"] for run in state["runs"]), state["step"]]
    return list(zip(state["runs"], bounds[1:], strict=True))


def history_of(state: dict[str, Any], told: str) -> str:
    """How the video network was trained; ``told`` is for the steps of which the checkpoint does not know.

    Raises:
        Refused: it knows of all.
    """
    unknown = unknown_steps(state)
    if told and not unknown:
        raise Refused("the checkpoint knows how all of its steps were trained: leave --history out")
    parts = [told or f"steps 0 to {unknown}: batch and learning rate were not recorded"] if unknown else []
    for run, last in ended_runs(state):
        parts.append(
            f"steps {run['first']} to {last}: {run['batch']} clips a step, learning rate {run['rate']:g}, "
            f"planned to end at step {run['goal']}"
        )
    return "; ".join(parts)


def commands_of(folder: Path, state: dict[str, Any]) -> list[str]:
    """The commands that the parts were made with, and a remark where that is not known."""
    lines = []
    for stage, file in (("autoencoder", "autoencoder.pt"), ("clips", "clips.npz")):
        made = noted(folder / file)
        lines.append(command(stage, made) if made else f"# {stage}: the options were not recorded")
    if unknown_steps(state):
        lines.append(f"# unet, steps 0 to {unknown_steps(state)}: the options were not recorded")
    for run, last in ended_runs(state):
        stop = {"stop": last} if last < run["goal"] else {}
        lines.append(command("unet", {"steps": run["goal"], **stop, **run}))
    return [*lines, command("export", {})]


def command(stage: str, made: dict[str, Any]) -> str:
    words = [f"--{name} {value}" for name, value in made.items() if name not in ("first", "goal", "seconds")]
    return " ".join(["PYTHONPATH=. python scripts/train_embedded.py", stage, *words])


def time_of(folder: Path, state: dict[str, Any]) -> str:
    """How long training took, without what older versions did not keep."""
    text = f"{state['seconds'] / 3600:.2f} hours for the video network"
    seconds = [noted(folder / file).get("seconds") for file in ("autoencoder.pt", "clips.npz")]
    if None in seconds:
        return text
    return f"{text}, {sum(seconds) / 60:.1f} minutes for the autoencoder and the latents"


def steps_of_loss(state: dict[str, Any]) -> int:
    """Over how many steps the last five mean losses go."""
    return state["step"] - ([0] * 6 + [step for step, _ in state["losses"]])[-6]
