"""A chat completions server on the loopback interface that fails as it is told to.

It answers with the letter that the question's text hides after "say ", in the response type of the official
client, and keeps every request that it got.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai.types.chat import ChatCompletion

Fault = Callable[["Handler"], None]


def completion(text: str, **changes: Any) -> dict[str, Any]:
    """A chat completion as the official client understands it."""
    message = {"role": "assistant", "content": text, "refusal": changes.pop("refusal", None)}
    finish = changes.pop("finish_reason", "stop")
    values = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }
    return json.loads(ChatCompletion.model_validate(values | changes).model_dump_json())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        self.chat = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), self.chat))
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
            fault = self.server.faults.popleft() if self.server.faults else None
        try:
            (fault or self.server.behaviour)(self)
        finally:
            with self.server.lock:
                self.server.active -= 1

    @property
    def text(self) -> str:
        return next(part["text"] for part in self.chat["messages"][0]["content"] if part["type"] == "text")

    def reply(self, status: int, content: Any, **headers: str) -> None:
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        kind = "text/html" if isinstance(content, str) else "application/json"
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None: ...


def answer(handler: Handler) -> None:
    found = re.search(r"say ([A-Z])", handler.text)
    assert found is not None
    handler.reply(200, completion(f"<think>bright</think><answer>{found.group(1)}</answer>"))


def status(number: int, content: Any = "", **headers: str) -> Fault:
    return lambda handler: handler.reply(number, content, **headers)


def stall(handler: Handler) -> None:
    """Say nothing until the server ends."""
    handler.server.ended.wait()


def drip(handler: Handler) -> None:
    """A byte now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.ended.wait(0.02):
            handler.wfile.write(b" ")


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


class ChatServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.lock = threading.Lock()
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.active = self.most_active = 0
        self.ended = threading.Event()
        self.behaviour: Fault = answer
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[Any, Any]:
        accepted = super().get_request()
        self.connections.append(accepted[0])
        return accepted

    def handle_error(self, *arguments: Any) -> None: ...

    def kill(self) -> None:
        """As SIGKILL does: nobody listens any more, and every open connection breaks."""
        self.ended.set()
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running(port: int = 0) -> Iterator[ChatServer]:
    server = ChatServer(port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.kill()
        thread.join()
