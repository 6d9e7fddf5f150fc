"""A PostgreSQL server for a test: a fresh cluster on a free port of 127.0.0.1, with a password."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER, PASSWORD = "tester", "s3cr@t/w:rd"  # signs that a URL has to quote


class Postgres:
    """Made by ``start``; ``stop`` with a kill is a crash, after which ``start`` recovers."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgres"))
        self.process: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root.
        self.account = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid} if os.getuid() == 0 else {}
        if self.account:
            shutil.chown(self.folder, "nobody")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        self._run("initdb", f"--pgdata={self.data}", *options)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [shutil.which(program) or program, *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            self._command(program, *arguments), check=True, capture_output=True, cwd=self.folder, **self.account
        )

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.folder}",
            "-c",
            "fsync=off",
        ]
        self.process = subprocess.Popen(
            self._command("postgres", "-D", str(self.data), "-p", str(self.port), *options),
            stderr=open(self.folder / "log", "a"),  # noqa: SIM115
            cwd=self.folder,
            **self.account,
        )
        end = time.monotonic() + 60
        while not self._ready():
            assert time.monotonic() < end and self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def _ready(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname="postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once; every connection is cut."""
        if self.process:
            self.process.send_signal(how)
            self.process.wait(timeout=60)
            self.process = None

    def remove(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, password: str = "${STUDIES_PASSWORD}") -> str:
        """A URL for search_storage."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/postgres"
