"""A proxy in front of a server's unix socket: it can hang, cut all connections, and drop the answer to a message."""

import socket
import threading
from contextlib import contextmanager, suppress


class Proxy:
    """`lose`: the answer to the next message with these bytes in it never arrives, and the connection ends."""

    def __init__(self, listen, upstream):
        self.upstream, self.lose, self.lost, self.open = str(upstream), b"", 0, True
        self.flowing = threading.Event()
        self.flowing.set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(listen))
        self.listener.listen(64)
        self.sockets = []
        self.is_cut, self.refused = False, 0
        self.start(self.accept)

    def start(self, what, *args):
        threading.Thread(target=what, args=args, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                self.refused += 1
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            self.sockets += [client, server]
            losing = threading.Event()
            self.start(self.pump, client, server, losing, True)
            self.start(self.pump, server, client, losing, False)

    def pump(self, source, target, losing, is_question):
        """Forward the data of one side."""
        with suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                if is_question and self.lose and self.lose in data:
                    self.lose = b""
                    losing.set()
                elif not is_question and losing.is_set():
                    # The server has processed the message: this is its answer.
                    self.lost += 1
                    break
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def hanging(self):
        """Forward nothing inside the block."""
        self.flowing.clear()
        try:
            yield
        finally:
            self.flowing.set()

    @contextmanager
    def cut(self):
        """End all connections and refuse new ones inside the block."""
        self.is_cut = True
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self.is_cut = False

    def close(self):
        self.open = False
        self.flowing.set()
        for each in (self.listener, *self.sockets):
            each.close()
