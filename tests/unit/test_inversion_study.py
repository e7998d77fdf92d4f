"""The page of the round trip says what the rows say."""

import pytest

pytest.importorskip("diffusers")

from fidelity_store import Record
from inversion_study import table


def record(*errors):
    rows = tuple({"case": i, "seed": 0, "error": e, "pixels": 1.0, "deviation": 0.95} for i, e in enumerate(errors))
    return Record({}, (), rows)


def test_a_line_for_each_number_of_steps_in_their_order():
    lines = table({100: record(0.5), 50: record(0.01, 0.02, 0.06)}).splitlines()[2:]
    # Mean, its standard error, median, largest.
    assert lines[0] == "| 50 | 0.0300 ± 0.0153 | 0.0200 | 0.0600 | 1.00 | 0.950 | 3 |"
    assert lines[1] == "| 100 | 0.5000 | 0.5000 | 0.5000 | 1.00 | 0.950 | 1 |"
