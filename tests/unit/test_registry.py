"""What the registry is given: the zip that `.comfyignore` leaves, the metadata, the icon and the banner."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KIB, MIB = 2**10, 2**20
RAW = "https://raw.githubusercontent.com/motionclone/ComfyUI-MotionClone/main/"
SHIPPED_CODE = ("__init__.py", "nodes/", "motionclone_core/")


# --- the zip ----------------------------------------------------------------------------------------------


def packed(root, scratch):
    """The files of the zip: all that git would add, but for what `.comfyignore` names in git's own way."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git, which says what is ignored, is not installed")
    subprocess.run([git, "init", "--quiet", str(scratch)], check=True)
    ignored = (f"--exclude-from={root / name}" for name in (".gitignore", ".comfyignore"))
    command = [git, f"--git-dir={scratch / '.git'}", f"--work-tree={root}", "ls-files", "-z", "--others", *ignored]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return set(filter(None, done.stdout.split("\0")))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return packed(ROOT, tmp_path_factory.mktemp("git"))


def imported_by(file):
    """The pack's own files that a file imports, wherever in it; relative imports are all it has."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = (ROOT / file).parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for candidate in (folder, *(folder / alias.name for alias in node.names)):
                for module in (candidate.with_suffix(".py"), candidate / "__init__.py"):
                    if module.is_file():
                        yield module.relative_to(ROOT).as_posix()


def needed_from(*files):
    """All files that importing these ends up importing, with the ``__init__.py`` of their folders."""
    found, waiting = set(), list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imported_by(file)
            waiting += [str(one) for folder in Path(file).parents if (ROOT / (one := folder / "__init__.py")).is_file()]
    return found


def test_the_zip_holds_what_the_nodes_import(files):
    needed = needed_from("__init__.py")
    assert {"nodes/extension.py", "nodes/guide.py", "motionclone_core/hosts/comfy_runtime.py"} <= needed
    assert needed - files == set()


def test_the_zip_holds_what_the_readme_uses_without_comfyui(files):
    assert needed_from("motionclone_core/headless.py") - files == set()


def test_nothing_that_runs_needs_what_is_left_out():
    assert {file.split("/")[0] for file in needed_from("__init__.py")} == {"__init__.py", "nodes", "motionclone_core"}


def test_the_zip_holds_no_other_code(files):
    code = {file for file in files if Path(file).suffix in (".py", ".pyc", ".sh", ".safetensors", ".jsonl")}
    assert {file for file in code if not file.startswith(SHIPPED_CODE)} == set()
    assert {file.split("/")[0] for file in files if file.startswith(".")} == set()


def test_the_zip_holds_what_the_editor_shows(files):
    folders = ("web", "locales", "example_workflows")
    shown = {file.relative_to(ROOT).as_posix() for name in folders for file in (ROOT / name).rglob("*.*")}
    assert shown - files == set()
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt"} <= files


def test_what_the_readme_links_is_in_the_zip(files):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = {link.split("#")[0] for link in re.findall(r"\]\(([^)#][^)]*)\)", text) if "://" not in link}
    folders = {folder.as_posix() for file in files for folder in Path(file).parents}
    assert len(links) > 10 and links - files - folders == set()


def test_the_zip_is_small(files):
    sizes = {file: (ROOT / file).stat().st_size for file in files}
    assert sum(sizes.values()) < 10 * MIB
    assert {file for file, size in sizes.items() if size > 3 * MIB} == set()


@pytest.fixture(scope="module")
def installed(files, tmp_path_factory):
    """The zip, unpacked where a pack is installed, in a folder that no package could be called."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "motion-clone 1"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    return folder


AS_COMFYUI_DOES = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", "__init__.py", submodule_search_locations=["."])
sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
"""


def run_in(folder, code):
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_loading_the_pack_loads_the_standard_library_alone(installed):
    loaded = {name.split(".")[0] for name in run_in(installed, f"{AS_COMFYUI_DOES}\nprint(*sys.modules)")}
    bare = {name.split(".")[0] for name in run_in(installed, "import importlib.util, sys; print(*sys.modules)")}
    assert loaded - bare - set(sys.stdlib_module_names) == {"pack"}


def test_what_is_unpacked_runs_without_comfyui(installed):
    code = f"{AS_COMFYUI_DOES}\nimport pack.motionclone_core.headless as it\nprint(it.PRESETS['fast'].steps)"
    assert run_in(installed, code) == ["30"]


def test_the_web_directory_holds_the_help(installed):
    (folder,) = run_in(installed, f"{AS_COMFYUI_DOES}\nprint(pack.WEB_DIRECTORY)")
    assert (installed / folder / "docs" / "MotionCloneGuidedKSampler.md").is_file()
    assert not list((installed / folder).rglob("*.js"))  # each would be loaded by the editor


def test_a_file_that_is_left_out_is_missed(tmp_path):
    for name in (".gitignore", "nodes/a.py", "tests/b.py", "embedded/MODEL_CARD.md", "embedded/model.py"):
        (tmp_path / "pack" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pack" / name).touch()
    shutil.copyfile(ROOT / ".comfyignore", tmp_path / "pack" / ".comfyignore")
    assert packed(tmp_path / "pack", tmp_path / "git") == {"nodes/a.py", "embedded/MODEL_CARD.md"}


# --- what the registry shows ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metadata():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_name_and_the_version_are_ones_that_the_registry_takes(metadata):
    project = metadata["project"]
    assert re.fullmatch(r"[A-Za-z](?:[-_.]?[A-Za-z0-9])*", project["name"]) and len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_both_lists_of_requirements_agree(metadata):
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert sorted(metadata["project"]["dependencies"]) == sorted(listed)


def test_the_icon_is_a_small_square(metadata):
    path = ROOT / metadata["tool"]["comfy"]["Icon"].removeprefix(RAW)
    with Image.open(path) as picture:
        assert picture.width == picture.height <= 400
    assert path.stat().st_size < 100 * KIB


def test_the_banner_is_as_wide_as_the_registry_shows_it(metadata):
    path = ROOT / metadata["tool"]["comfy"]["Banner"].removeprefix(RAW)
    with Image.open(path) as picture:
        assert picture.width * 9 == picture.height * 21
    assert path.stat().st_size < 300 * KIB
