"""Remote stores for tests: fsspec's in memory, and an HTTP server on the loopback interface."""

import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec


def put_into_memory(folder, name):
    """Copies a folder into the memory of the process; returns its URL."""
    system = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe(f"/{name}/{file.relative_to(folder)}", file.read_bytes())
    return f"memory://{name}"


class Server(ThreadingHTTPServer):
    """Serves a folder. The first answers for a name may fail, be cut off, or take long."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.faults = {}
        self.requests = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/")
        self.server.requests.append(name)
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault == "failing":
            return self.send_error(503)
        if fault == "slow":
            self.server.released.wait(10)
        if fault == "cut off":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"the first part")
            return None
        return super().do_GET()

    def log_message(self, *arguments):
        pass


@contextmanager
def served(folder):
    """Serves a folder over HTTP."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def note_pauses(monkeypatch):
    """Returns the list of all pauses, in seconds, none of which is made."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses
