"""What ComfyUI tells the browser while it works: a web socket that only listens. Standard library only."""

from __future__ import annotations

import base64
import json
import os
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

_PREVIEW = 1  # ComfyUI's number for a preview picture; the picture's format and bytes follow


@dataclass
class Heard:
    """What was said about one prompt."""

    progress: list[tuple[int, int]] = field(default_factory=list)
    """Steps done and steps in all."""
    previews: list[bytes] = field(default_factory=list)
    """Encoded pictures."""


class Listener:
    """Context manager: listens to the server under ``client_id`` (RFC 6455, messages from the server only)."""

    def __init__(self, port: int, client_id: str, *, timeout: float = 300.0) -> None:
        self._address = ("127.0.0.1", port)
        self._client_id = client_id
        self._timeout = timeout

    def __enter__(self) -> Listener:
        self._socket = socket.create_connection(self._address, self._timeout)
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET /ws?clientId={self._client_id} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket",
            "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        ]  # fmt: skip
        self._socket.sendall("\r\n".join(lines).encode())
        status = self._stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no web socket: {status!r}")
        while self._stream.readline().strip():
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def hear(self, prompt_id: str, node_id: str) -> Heard:
        """Listens until the prompt has ended; keeps what concerns one of its nodes."""
        heard, current = Heard(), None
        while True:
            message = self._message()
            if isinstance(message, bytes):
                if current == node_id and int.from_bytes(message[:4], "big") == _PREVIEW:
                    heard.previews.append(message[8:])
                continue
            data: dict[str, Any] = message.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            if message["type"] == "executing":
                current = data["node"]
                if current is None:
                    return heard
            if message["type"] == "progress" and data["node"] == node_id:
                heard.progress.append((data["value"], data["max"]))

    def _message(self) -> bytes | dict[str, Any]:
        parts, kind, last = [], 0, False
        while not last:
            first, length = self._stream.read(2)
            if length >= 126:
                length = int.from_bytes(self._stream.read(2 if length == 126 else 8), "big")
            part, last = self._stream.read(length), bool(first & 0x80)
            if first & 0x0F >= 8:  # a ping: ComfyUI does not wait for the answer
                last = False
                continue
            kind = first & 0x0F or kind
            parts.append(part)
        whole = b"".join(parts)
        return json.loads(whole) if kind == 1 else whole
