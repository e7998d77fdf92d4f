"""A ComfyUI server of one's own, driven over HTTP: for the tests and the demo. Standard library only.

``ComfyServer`` starts ComfyUI's ``main.py`` with a base directory made for the occasion, so that nothing of
the user's installation is written to: its custom nodes are links to this pack, AnimateDiff-Evolved and what
else is asked for, its models are links too. ``Graph`` writes prompts, ``Result`` says how one ended::

    with ComfyServer(find_comfyui(), models={"checkpoints": [path]}) as server:
        graph = Graph()
        loader = graph.add("CheckpointLoaderSimple", ckpt_name=path.name)
        text = graph.add("CLIPTextEncode", clip=loader[1], text="a boat")
        result = server.run(graph)
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from find_comfyui import PACK, ComfyUI, check_interpreter

PACK_NAME = "ComfyUI-MotionClone"
OTHER_PACKS = ("Advanced-ControlNet", "VideoHelperSuite")
MODEL_FOLDERS = ("checkpoints", "animatediff_models")
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", *(f"models/{name}" for name in MODEL_FOLDERS))
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "venv", "demo_output", "models_cache")
TAIL = 60  # lines of the log shown when something fails
# A server that is busy, or not listening yet, may answer the next time it is asked.
NO_ANSWER = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)

Prompt = dict[str, dict[str, Any]]
Link = list[Any]


class ServerError(RuntimeError):
    """The server did not start, died or did not answer in time; the message ends with its log."""


class PromptRejected(ValueError):
    """ComfyUI refused the prompt before running it."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.error: dict[str, Any] = dict(answer.get("error") or {})
        self.node_errors: dict[str, Any] = dict(answer.get("node_errors") or {})
        super().__init__(json.dumps(answer, indent=1))


@dataclass(frozen=True)
class Node:
    """A node of a ``Graph``; ``node[i]`` links to its i-th output."""

    id: str
    class_type: str

    def __getitem__(self, output: int) -> Link:
        return [self.id, output]


class Graph:
    """Writes a prompt in the form that ``/prompt`` takes."""

    def __init__(self) -> None:
        self._prompt: Prompt = {}

    def add(self, class_type: str, **inputs: Any) -> Node:
        """Adds a node; an input is a value or an output (``node[1]``; a bare ``node`` is its output 0)."""
        node = Node(str(len(self._prompt) + 1), class_type)
        self._prompt[node.id] = {"class_type": class_type, "inputs": {}}
        self.set(node, **inputs)
        return node

    def set(self, node: Node, **inputs: Any) -> None:
        """Sets inputs of a node that was added before."""
        given = {name: value[0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self._prompt[node.id]["inputs"].update(given)

    def prompt(self) -> Prompt:
        """A copy of the prompt as it is now."""
        return json.loads(json.dumps(self._prompt))


@dataclass(frozen=True)
class Result:
    """How a prompt ended."""

    prompt_id: str
    status: str
    """``success``, ``error``, ``interrupted``, or ``invalid`` when the prompt was not accepted."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """What output nodes reported, by node id."""
    node_errors: dict[str, Any] = field(default_factory=dict)
    """What validation found, by node id."""
    exception_type: str = ""
    exception_message: str = ""
    node_type: str = ""
    """Class of the node that raised or was interrupted."""
    cached: frozenset[str] = frozenset()
    """Ids of the nodes that were not run again."""
    log: str = ""
    """What the server logged from the moment the prompt was queued."""

    @property
    def ok(self) -> bool:
        return self.status == "success"

    def output(self, node: Node | str) -> dict[str, Any]:
        """What one output node reported.

        Raises:
            KeyError: it reported nothing.
        """
        return self.outputs[node.id if isinstance(node, Node) else node]

    def files(self) -> list[dict[str, Any]]:
        """Every file that any node reported (``filename``, ``subfolder``, ``type``), as ``view`` takes it."""
        values = (value for output in self.outputs.values() for value in output.values())
        items = (item for value in values for item in _items(value))
        return [item for item in items if isinstance(item, dict) and "filename" in item]


class ComfyServer:
    """Context manager: a server that runs while the block does.

    Args:
        comfyui: what ``find_comfyui`` found.
        models: files to link, by folder below ``models`` (``{"checkpoints": [path]}``).
        packs: further custom node packs to link.
        extra_args: further arguments of ``main.py``.
        env: further environment variables; ``None`` as a value removes one.
        cpu: pass ``--cpu``.
        alone: leave out AnimateDiff-Evolved and the other packs that are found.
        start_timeout: seconds until the first answer.
    """

    def __init__(
        self,
        comfyui: ComfyUI,
        *,
        models: Mapping[str, Sequence[Path]] | None = None,
        packs: Sequence[Path] = (),
        extra_args: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        cpu: bool = True,
        alone: bool = False,
        start_timeout: float = 300.0,
    ) -> None:
        self.comfyui = comfyui
        self._models = dict(models or {})
        self._packs = tuple(packs)
        self._args = (*(["--cpu"] if cpu else []), *extra_args)
        self._env = dict(env or {})
        self._alone = alone
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._offsets: dict[str, int] = {}
        # A proxy set in the environment must not stand between us and this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    # Life

    def __enter__(self) -> ComfyServer:
        check_interpreter(self.comfyui)
        self._on_terminate = _exit_on_terminate()
        self.base = Path(tempfile.mkdtemp(prefix="motionclone-comfyui-"))
        try:
            self._furnish()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and everything it started, and removes its base directory."""
        if self._process is not None:
            _end_group(self._process)
            self._process = None
        shutil.rmtree(self.base, ignore_errors=True)
        if self._on_terminate is not None:
            signal.signal(signal.SIGTERM, self._on_terminate)

    def _furnish(self) -> None:
        for folder in FOLDERS:
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        others = (self.comfyui.pack(name) for name in OTHER_PACKS)
        packs = [*([] if self._alone else [self.comfyui.animatediff, *(p for p in others if p)]), *self._packs]
        for pack in packs:
            _link(pack, self.base / "custom_nodes" / pack.name)
        _link(PACK, self.base / "custom_nodes" / PACK_NAME)
        for folder, files in self._models.items():
            for file in files:
                self.link(folder, file)

    def link(self, folder: str, file: Path) -> None:
        """Links a file below ``models``, before the server starts or while it runs."""
        target = self.base / "models" / folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _link(file, target)

    def _start(self) -> None:
        self.port = _free_port()
        command = [str(self.comfyui.python), str(self.comfyui.path / "main.py"), *self._arguments()]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.comfyui.path,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
        self._until(self._answers, self._start_timeout, "answer /system_stats")

    def _arguments(self) -> list[str]:
        fixed = ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        # The database's default place is the user's own installation, whatever the base directory.
        return [*fixed, "--disable-auto-launch", "--database-url", "sqlite:///:memory:", *self._args]

    def _environment(self) -> dict[str, str]:
        ours = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"))  # meant for this interpreter
        wanted = {**os.environ, **ours, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **self._env}
        return {name: value for name, value in wanted.items() if value is not None}

    def _answers(self) -> bool:
        try:
            self.get("/system_stats", timeout=5)
        except NO_ANSWER:
            return False
        return True

    # HTTP

    def get(self, path: str, *, timeout: float = 60.0) -> Any:
        """The JSON at ``path``."""
        return json.loads(self._request(path, None, timeout) or b"null")

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float = 60.0) -> Any:
        """Posts JSON; the answer's JSON, or None."""
        return json.loads(self._request(path, json.dumps(body).encode(), timeout) or b"null")

    def fetch(self, path: str, *, timeout: float = 60.0) -> bytes:
        """What lies at ``path``, as it is."""
        return self._request(path, None, timeout)

    def _request(self, path: str, data: bytes | None, timeout: float) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
        with self._opener.open(request, timeout=timeout) as response:
            return response.read()

    # Prompts

    def queue(self, prompt: Graph | Prompt, *, client_id: str | None = None) -> str:
        """Queues a prompt and returns its id.

        Args:
            prompt: what to run.
            client_id: the web socket that is told of its progress, if any.

        Raises:
            PromptRejected: validation failed.
        """
        offset = self.log_size()
        body: dict[str, Any] = {"prompt": prompt.prompt() if isinstance(prompt, Graph) else prompt}
        if client_id is not None:
            body["client_id"] = client_id
        try:
            prompt_id = self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRejected(json.loads(error.read())) from None
        self._offsets[prompt_id] = offset
        return prompt_id

    def wait(self, prompt_id: str, timeout: float = 600.0) -> Result:
        """Waits until a prompt has ended, well or badly.

        Raises:
            ServerError: it did not end in ``timeout`` seconds (it is interrupted then), or the server died.
        """
        entries: list[dict[str, Any]] = []

        def ended() -> bool:
            with contextlib.suppress(*NO_ANSWER):
                entries[:] = self.history(prompt_id).values()
            return bool(entries)

        try:
            self._until(ended, timeout, f"finish prompt {prompt_id}")
        except ServerError:
            with contextlib.suppress(OSError):
                self.interrupt()
            raise
        return _result(prompt_id, entries[0], self.log(self._offsets.get(prompt_id, 0)))

    def run(self, prompt: Graph | Prompt, timeout: float = 600.0) -> Result:
        """Queues and waits. A prompt that is refused gives a result with the status ``invalid``."""
        offset = self.log_size()
        try:
            prompt_id = self.queue(prompt)
        except PromptRejected as refusal:
            message = str(refusal.error.get("message", ""))
            errors = refusal.node_errors
            kind = str(refusal.error.get("type", ""))
            return Result("", "invalid", {}, errors, kind, message, log=self.log(offset))
        return self.wait(prompt_id, timeout)

    def interrupt(self) -> None:
        """Interrupts whatever is running."""
        self.post("/interrupt", {})

    def running(self) -> list[str]:
        """Ids of the prompts that are being run."""
        return [entry[1] for entry in self.get("/queue")["queue_running"]]

    def pending(self) -> list[str]:
        """Ids of the prompts that wait."""
        return [entry[1] for entry in self.get("/queue")["queue_pending"]]

    def history(self, prompt_id: str = "") -> dict[str, Any]:
        """ComfyUI's history: of one prompt, or of all."""
        return self.get(f"/history/{prompt_id}" if prompt_id else "/history")

    def object_info(self, class_type: str = "") -> dict[str, Any]:
        """The description of one node class (empty if there is none), or of all."""
        return self.get(f"/object_info/{urllib.parse.quote(class_type)}" if class_type else "/object_info")

    def free(self) -> None:
        """Unloads the models and forgets cached outputs."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(0.5)  # the worker does it when it wakes; a prompt queued at once would come before

    # Files

    @property
    def input_dir(self) -> Path:
        return self.base / "input"

    @property
    def output_dir(self) -> Path:
        return self.base / "output"

    @property
    def log_path(self) -> Path:
        return self.base / "server.log"

    def add_input(self, file: Path) -> str:
        """Copies a file into ``input`` and returns its name there."""
        shutil.copyfile(file, self.input_dir / file.name)
        return file.name

    def view(self, file: Mapping[str, Any]) -> bytes:
        """The content of a file that a node reported."""
        query = urllib.parse.urlencode({k: file[k] for k in ("filename", "subfolder", "type") if k in file})
        return self._request(f"/view?{query}", None, 60)

    # Log

    def log_size(self) -> int:
        """Bytes logged so far: where the next line will begin."""
        return self.log_path.stat().st_size

    def log(self, start: int = 0) -> str:
        """The log from byte ``start``; a redrawn progress bar gives one line per redraw."""
        return self.log_path.read_bytes()[start:].decode("utf-8", "replace").replace("\r", "\n")

    def wait_log(self, pattern: str, *, start: int = 0, timeout: float = 120.0) -> re.Match[str]:
        """Waits until a regular expression is found in the log from byte ``start``.

        A sampler's progress bar shows there, so ``r"1/8 "`` waits for the end of the first of 8 steps.
        """
        found: list[re.Match[str]] = []

        def there() -> bool:
            match = re.search(pattern, self.log(start))
            found.extend([match] if match else [])
            return match is not None

        self._until(there, timeout, f"log {pattern!r}")
        return found[0]

    def failed_imports(self) -> list[str]:
        """Custom node packs that ComfyUI could not import."""
        return re.findall(r"\(IMPORT FAILED\):? *(.*)", self.log())

    def log_tail(self, lines: int = TAIL) -> str:
        return "\n".join(self.log().rstrip().splitlines()[-lines:])

    def _until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            code = self._process.poll() if self._process else None
            if code is not None:
                raise ServerError(f"ComfyUI ended with code {code} before it did {what}.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not {what} in {timeout:g} s.\n{self.log_tail()}")
            time.sleep(0.1)


def _result(prompt_id: str, entry: Mapping[str, Any], log: str) -> Result:
    status = entry.get("status") or {}
    messages = dict(status.get("messages", []))
    error = messages.get("execution_error", {})
    interrupted = messages.get("execution_interrupted", {})
    return Result(
        prompt_id=prompt_id,
        status="interrupted" if interrupted else status.get("status_str", "error"),
        outputs=entry.get("outputs", {}),
        exception_type=error.get("exception_type", ""),
        exception_message=error.get("exception_message", ""),
        node_type=(error or interrupted).get("node_type", ""),
        cached=frozenset(messages.get("execution_cached", {}).get("nodes", [])),
        log=log,
    )


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _link(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where links are not allowed."""
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target, ignore=NOT_COPIED)
        else:
            shutil.copyfile(source, target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _exit_on_terminate() -> Any:
    """Let SIGTERM unwind the stack, so that the server goes with its client; returns the handler from before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    return signal.signal(signal.SIGTERM, leave)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the server's process group: politely, then for certain."""
    for name in ("SIGTERM", "SIGKILL"):
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, getattr(signal, name))
        else:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    process.wait()
