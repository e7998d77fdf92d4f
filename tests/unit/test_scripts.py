"""Every script can be started: what it imports is there."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# These run inside ComfyUI's interpreter.
OF_COMFYUI = {"sampler_study", "toy_animatediff"}


@pytest.mark.parametrize("name", sorted({path.stem for path in SCRIPTS.glob("*.py")} - OF_COMFYUI))
def test_a_script_finds_what_it_imports(name):
    importlib.import_module(name)
