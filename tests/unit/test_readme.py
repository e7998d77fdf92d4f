"""The settings that README.md quotes are those of the code."""

from pathlib import Path

import pytest

from motionclone_core.schedule import DEFAULT_WEIGHT, PRESETS
from motionclone_core.updates import PUSH_PER_WEIGHT

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(README.split())


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets(name):
    preset = PRESETS[name]
    ratio = "even" if preset.ratio is None else preset.ratio
    assert f"| `{name}` | {preset.steps} | {preset.guided_steps} | {ratio} |\n" in README


def test_what_the_published_presets_share():
    shared = {(p.weight, p.warm_up, p.cool_down, p.cfg, p.limit, p.k) for name, p in PRESETS.items()
              if name not in ("fast", "first version")}
    ((weight, warm_up, cool_down, cfg, limit, k),) = shared
    assert (limit, k) == (None, 1)
    text = f"with weight {weight:g}, {warm_up} steps of warm-up, {cool_down} of cool-down and cfg {cfg}"
    assert text in TEXT


def test_what_fast_has_of_its_own():
    fast = PRESETS["fast"]
    ramps = f"no warm-up, {fast.cool_down} steps of cool-down and `k` {fast.k}"
    assert f"`fast` has the rule `{fast.update_rule}`, {ramps}" in TEXT
    assert (fast.warm_up, fast.limit, fast.weight) == (0, None, DEFAULT_WEIGHT)


def test_what_a_normalised_weight_means():
    assert f"of which {DEFAULT_WEIGHT:g} push by {PUSH_PER_WEIGHT * DEFAULT_WEIGHT:g} of the noise" in TEXT


def table_after(page, heading):
    """The first table below a heading of docs/FIDELITY.md: rows by their first entry, entries by their head."""
    lines = page.split(heading, 1)[1].split("\n## ")[0].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| "))
    rows = [[entry.strip() for entry in line.strip("|").split("|")] for line in lines[start:] if line.startswith("|")]
    end = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), len(rows))
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:end]}


def mean_of(entry):
    return float(entry.split(" ± ")[0])


def test_what_is_said_of_fidelity_was_measured():
    page = (ROOT / "docs" / "FIDELITY.md").read_text(encoding="utf-8")
    cells = table_after(page, "## A third of the steps")
    fast, free = (mean_of(cells[name]["path error, px"]) for name in ("fast", "no guidance"))
    kinds = table_after(page, "Guidance knows of a thing")
    alone = max(mean_of(kinds[kind]["path error, px"]) for kind in ("straight", "curved", "turning"))
    said = f"is {fast:.1f} pixels of 64 away from its path in the mean over its frames, and {free:.1f} without guidance"
    assert said in TEXT
    others = page.split("### References that nothing was chosen on", 1)[1].split("\n\n", 3)[3]
    fresh = {name: mean_of(row["path error, px"]) for name, row in table_after(f"#{others}", "#").items()}
    assert f"({fresh['fast']:.1f} and {fresh['no guidance']:.1f} over 64 other references" in TEXT
    assert f"A single thing that goes its way is followed to {alone:.1f} or less" in TEXT
    assert "Over 64 references with 3 noises each" in TEXT and cells["fast"]["clips"] == str(64 * 3)
    samplers = {name: mean_of(row["path error, px"]) for name, row in table_after(page, "## Sampler").items()}
    assert samplers["lcm"] > 1.5 * fast
    assert max(samplers["dpmpp_2m"], samplers["ddpm"]) < 1.1 * fast


def test_what_is_said_of_edits_was_measured():
    page = (ROOT / "docs" / "FIDELITY.md").read_text(encoding="utf-8")
    lines = [[entry.strip() for entry in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]

    def row(*begin: str) -> list[str]:
        return next(line for line in lines if tuple(line[: len(begin)]) == begin)

    def beside(guided: str, free: str) -> str:
        return f"{mean_of(guided):.1f} ({mean_of(free):.1f})"

    words = " ".join(TEXT.split())
    long = row("8", "guided")
    assert f"follow a path of 64 frames to {beside(long[2], row('8', 'no guidance')[2])}" in words
    assert f"are {mean_of(long[4]):.2f} beside their way, the others {mean_of(long[5]):.2f}." in words
    timed = {name: beside(*row(name)[1:3]) for name in ("backwards", "at half speed", "32 frames, fitted to 16")}
    assert f"Backwards a motion is followed to {timed['backwards']}, at half speed to {timed['at half speed']}" in words
    assert f"32 frames fitted to 16 to {timed['32 frames, fitted to 16']}." in words
    moved = ("a tenth of the frame to the right", "three quarters as large")
    right, smaller = (beside(*row(name)[1:3]) for name in moved)
    assert f"frame to the right it is followed to {right}, three quarters as large to {smaller};" in words
    assert f"hardly followed: {beside(*row('half as large, a fifth of the frame to the right')[1:3])}." in words
    masked, free = row("first", "masked"), row("first", "no guidance")
    assert f"What a mask leaves in follows to {beside(masked[2], free[2])}" in words
    assert f"stays {mean_of(masked[4]):.1f} from its reference's path ({mean_of(free[4]):.1f})" in words
    inverted, free = row("all but the first", "masked"), row("all but the first", "no guidance")
    assert f"it comes to {mean_of(inverted[4]):.1f} of its path ({mean_of(free[4]):.1f})" in words
    halves = row("two motions, each in its half")
    assert f"are both followed, to {mean_of(halves[3]):.1f} and {mean_of(halves[4]):.1f}." in words
    assert f"followed to {mean_of(row('64', '128')[2]):.1f} of them ({mean_of(row('64', '128')[3]):.1f})" in words
    assert f"hardly draws, to {beside(*row('64', '32')[2:4])}." in words
    both = row("one motion, read off both together")
    assert f"both come within 5 pixels of their paths in {both[7]} of 16 clips" in words


def test_what_is_said_of_sizes_was_measured():
    page = (ROOT / "docs" / "SIZES.md").read_text(encoding="utf-8")
    sizes, frames = (table_after(page, f"## {heading}") for heading in ("Size in pixels", "Number of frames"))
    push = {table: {name: row["its push"] for name, row in rows.items()} for table, rows in ((0, sizes), (1, frames))}
    assert f"from {push[0]['48']} of the noise at 48 pixels to {push[0]['96']} at 96" in TEXT
    assert f"and from {push[1]['8']} at 8 frames to {push[1]['32']} at 32" in TEXT
    shares = table_after(page, "## Gradients that steps share")
    grown = shares["2"]["path error to that of 1"].split()[0]
    assert f"path errors of `fast` on the embedded model grew to {float(grown):.2f} times" in TEXT


def test_what_is_said_of_cost_was_measured():
    page = (ROOT / "docs" / "PERFORMANCE.md").read_text(encoding="utf-8")
    lines = [[entry.strip() for entry in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    whole = {(line[0], line[1]): float(line[-1]) for line in lines if "512 x 512" in line[0] and "line" in line[0]}
    plain, control = (f"16 frames of 512 x 512{beside}, by a straight line" for beside in ("", ", SparseCtrl"))
    speed, memory = whole[plain, "speed"], whole[plain, "memory"]
    assert f"a guided step takes {speed:.1f} GiB when it keeps everything (`speed`)" in TEXT
    said = f"{memory:.1f} GiB when it saves memory (`memory`), and {whole[control, 'memory']:.1f} GiB then beside"
    assert said in TEXT
    times = {line[1]: line[2].split()[0] for line in lines if line[0] == "16 frames of 256 x 256" and len(line) == 10}
    ratios = {mode: f"{float(ratio):.2f}" for mode, ratio in times.items()}
    assert f"takes {ratios['speed']} times as long as an unguided one, and {ratios['memory']} times when" in TEXT


def test_what_is_said_of_arrows_was_measured():
    rows = table_after((ROOT / "docs/CORRESPONDENCE.md").read_text(encoding="utf-8"), "# Which way things move")
    measured = rows["all"]
    cosine, beside = float(measured["cosine to the true velocity"]), measured["on or beside it"]
    assert f"their mean cosine to the true velocity is {cosine:.2f}, {beside} lie on or beside what moves" in TEXT
