"""The client of a ComfyUI server, against a server that misbehaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from comfy_server import ComfyServer, ServerError
from find_comfyui import ComfyUI, ComfyUINotFound, check_packs

ENTRY = {"status": {"status_str": "success", "messages": []}, "outputs": {"1": {"text": ["done"]}}}


class Moody(BaseHTTPRequestHandler):
    """Answers each request by the next of the server's moods, the last of them again and again."""

    def do_GET(self) -> None:
        moods = self.server.moods
        mood = moods.pop(0) if len(moods) > 1 else moods[0]
        if mood == "hang up":
            self.close_connection = True
            return
        body = json.dumps({"p": ENTRY} if mood == "answer" else {}).encode()
        self.send_response(500 if mood == "fail" else 200)
        self.send_header("Content-Length", str(len(body) + (99 if mood == "break off" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    server.moods = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(moody: ThreadingHTTPServer, tmp_path: Path) -> ComfyServer:
    here = ComfyUI(tmp_path, tmp_path, "0", tmp_path, ())
    client = ComfyServer(here)
    client.base, client.port = tmp_path, moody.server_port
    client.log_path.write_text("a line\n")
    return client


def test_waiting_survives_requests_that_fail(moody: ThreadingHTTPServer, client: ComfyServer) -> None:
    moody.moods += ["hang up", "fail", "break off", "not yet", "answer"]
    result = client.wait("p", timeout=30)
    assert (result.status, result.outputs) == ("success", ENTRY["outputs"])
    assert moody.moods == ["answer"]


def test_waiting_ends_at_the_deadline(moody: ThreadingHTTPServer, client: ComfyServer) -> None:
    moody.moods += ["hang up"]
    with pytest.raises(ServerError, match=r"did not finish prompt p in 0\.5 s"):
        client.wait("p", timeout=0.5)


def test_a_pack_that_the_tests_need_is_named(tmp_path):
    with pytest.raises(ComfyUINotFound, match=r"no ComfyUI-Advanced-ControlNet .*clone https://github\.com/"):
        check_packs(ComfyUI(tmp_path, tmp_path, "0", tmp_path, (tmp_path / "Another-Pack",)))
    check_packs(ComfyUI(tmp_path, tmp_path, "0", tmp_path, (tmp_path / "comfyui-advanced-controlnet",)))
