"""Motion representations on disk: ``motion_reps/`` in ComfyUI's models and output folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..motionclone_core.mixing import Motion
from ..motionclone_core.paths import list_inside, resolve_inside
from ..motionclone_core.serialization import SUFFIX, load_representation, next_free, save_representation
from ..motionclone_core.series import AnyReading
from .sockets import MotionRep, node_schema

FOLDER = "motion_reps"
_OUTPUT_MARK = " [output]"


def register_folder() -> None:
    """Tell ComfyUI of ``models/motion_reps``, beside what extra_model_paths.yaml may have named."""
    folder_paths.add_model_folder_path(FOLDER, str(_default_folder()))
    folder_paths.folder_names_and_paths[FOLDER][1].add(SUFFIX)


def _default_folder() -> Path:
    return Path(folder_paths.models_dir) / FOLDER


def _output_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def _model_folders() -> list[Path]:
    return [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]


def _names_in(folder: Path) -> list[str]:
    return list_inside(folder, lambda name: name.endswith(SUFFIX) and not Path(name).name.startswith("."))


def _choices() -> list[str]:
    models = dict.fromkeys(name for folder in _model_folders() for name in _names_in(folder))
    return [*models, *(name + _OUTPUT_MARK for name in _names_in(_output_folder()))]


def _locate(choice: str) -> Path:
    """The file that a choice of the drop-down stands for; it may be missing.

    Raises:
        ValueError: it lies outside the folders for motions.
    """
    if not isinstance(choice, str):
        raise ValueError(f"{choice!r} is not the name of a motion file")
    if not choice.removesuffix(_OUTPUT_MARK).endswith(SUFFIX):
        raise ValueError(f"{choice!r} is not a motion file: motion files end in {SUFFIX}")
    if choice.endswith(_OUTPUT_MARK):
        return resolve_inside(_output_folder(), choice.removesuffix(_OUTPUT_MARK))
    candidates = [resolve_inside(folder, choice) for folder in _model_folders()]
    return next((path for path in candidates if path.is_file()), candidates[0])


class SaveMotionRep(io.ComfyNode):
    """Write a motion representation to a file of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneSaveMotionRep",
            display_name="Save Motion Rep",
            description="Saves a motion as a safetensors file under motion_reps/ in the output or models folder. "
            "Never overwrites: names are numbered.",
            search_aliases=["save motion", "export motion", "motion file"],
            is_output_node=True,
            inputs=[
                MotionRep.Input("motion_rep", tooltip="The motion to save."),
                io.String.Input(
                    "filename_prefix",
                    default="motion",
                    tooltip="Start of the file's name; may hold a subfolder, such as camera/pan.",
                ),
                io.Combo.Input(
                    "folder",
                    options=["output", "models"],
                    default="output",
                    tooltip="Where motion_reps/ lies. Load Motion Rep lists both.",
                ),
            ],
            outputs=[
                io.String.Output("file", display_name="file", tooltip="The name that Load Motion Rep lists.")
            ],
        )

    @classmethod
    def execute(cls, motion_rep: AnyReading | Motion, filename_prefix: str, folder: str) -> io.NodeOutput:
        """See the class."""
        if isinstance(motion_rep, Motion):
            raise ValueError(f"{len(motion_rep.parts)} combined motions are not one: save each before Combine Motions")
        root = _output_folder() if folder == "output" else _default_folder()
        path = next_free(resolve_inside(root, filename_prefix.strip()))
        save_representation(motion_rep, path)
        name = path.relative_to(root.resolve()).as_posix() + (_OUTPUT_MARK if folder == "output" else "")
        return io.NodeOutput(name, ui=ui.PreviewText(f"{name}: {motion_rep.nbytes() / 2**20:.2f} MiB"))


class LoadMotionRep(io.ComfyNode):
    """Read a motion representation from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return node_schema(
            node_id="MotionCloneLoadMotionRep",
            display_name="Load Motion Rep",
            description="Loads a motion that Save Motion Rep wrote.",
            search_aliases=["load motion", "import motion", "motion file"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_choices(),
                    tooltip="Motions under motion_reps/ in the models and output folders.",
                ),
            ],
            outputs=[MotionRep.Output("motion_rep", display_name="motion_rep", tooltip="The saved motion.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Refuse names outside the folders for motions, and files that are not there."""
        if file is None:  # it comes from another node, and is known only when that has run
            return True
        try:
            path = _locate(file)
        except ValueError as error:
            return str(error)
        return (
            True if path.is_file() else f"there is no motion file {file!r}: it may have been moved or deleted"
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        """Changes when the file does."""
        state = _locate(file).stat()
        return f"{file}:{state.st_mtime_ns}:{state.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """See the class."""
        return io.NodeOutput(load_representation(_locate(file)))
