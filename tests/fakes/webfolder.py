"""A folder on a real web server of this machine, which counts what it is asked for."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class WebFolder:
    """A context manager: the folder is served while it is open.

    Args:
        folder: What is served.

    Attributes:
        asked: Method and target of each request, in order; as a proxy it sees whole addresses.
        refused: Paths that are refused, with the status 403.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refused: set[str] = set()
        asked, refused = self.asked, self.refused

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def parse_request(self) -> bool:
                good = super().parse_request()
                if good:
                    asked.append((self.command, self.path))
                return good

            def do_GET(self) -> None:
                if self.path in refused:
                    self.send_error(403)
                else:
                    super().do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in http.server
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client may leave when it has seen enough

        handler = functools.partial(Handler, directory=str(folder))
        self._server = Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def paths(self) -> list[str]:
        """Paths that were requested."""
        return [path for _method, path in self.asked]

    def __enter__(self) -> WebFolder:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving: connections are refused from now on."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
