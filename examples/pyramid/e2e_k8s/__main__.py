"""`python3 -m e2e_k8s`: serves the app until SIGINT or SIGTERM.

Environment: PORT (default 8080) and HOST (default 127.0.0.1).
"""

import errno
import os
import signal
import socketserver
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from . import packages


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """One thread a connection, so that a browser's idle one blocks nobody.

    The address is reusable at once (`allow_reuse_address` of HTTPServer): the next start
    need not wait for connections of the last one to time out.
    """

    daemon_threads = True
    block_on_close = False

    def server_bind(self):
        """Binds without HTTPServer's reverse name lookup, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()


class Handler(WSGIRequestHandler):
    """Logs the address as it is, without a name lookup."""

    def address_string(self):
        return self.client_address[0]


def stop(_signal, _frame):
    """Ends the process well; the server's loop lets SystemExit pass."""
    sys.exit(0)


def address():
    """Reads HOST and PORT."""
    port = os.environ.get("PORT", "8080")
    if not port.isdecimal() or int(port) > 65535:
        sys.exit(f"e2e_k8s: PORT must be a number up to 65535, not {port!r}")
    return os.environ.get("HOST", "127.0.0.1"), int(port)


def main():
    """Installs what is missing, then serves."""
    # Set both: a shell starts background jobs with SIGINT ignored, and Python keeps that.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    host, port = address()
    packages.ensure()
    from .demo import make_app

    app = make_app()
    try:
        server = make_server(host, port, app, server_class=Server, handler_class=Handler)
    except OSError as error:
        hint = " (another process has it; choose one with PORT=8081)"
        sys.exit(f"e2e_k8s: cannot listen on {host}:{port}: {error.strerror}"
                 + (hint if error.errno == errno.EADDRINUSE else ""))
    print(f"e2e_k8s: listening on http://{host}:{server.server_port}/ (pid {os.getpid()})", flush=True)
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
