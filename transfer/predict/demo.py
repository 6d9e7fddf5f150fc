"""A page on 127.0.0.1 to try a model with photos and the camera: nothing leaves the machine.

Python's own server and one page without any library: nothing is fetched from elsewhere, and the browser is told so.
"""

import base64
import io
import json
import threading
from collections.abc import Mapping
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from transfer.explain.attention import overlay
from transfer.predict import draw
from transfer.predict.model import Model
from transfer.predict.pictures import checked
from transfer.predict.results import Results
from transfer.utils.errors import UserError

HOST = "127.0.0.1"
MOST_BYTES = 50_000_000
_PAGE = Path(__file__).with_name("demo.html")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Demo(ThreadingHTTPServer):
    """The page and its answers; ``models`` are weight files by the name that the page shows, the first is chosen."""

    daemon_threads = True

    def __init__(self, models: Mapping[str, Path], port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.models = models
        self.load = lru_cache(maxsize=2)(lambda name: Model(models[name]))
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def answer(self, name: str, content: bytes, attention: bool) -> dict[str, Any]:
        """What the page shows of an image file: the picture with boxes and bars, and each face. Raises UserError."""
        if name not in self.models:
            raise UserError(f"{name}: no such model; reload the page")
        with self.turn:
            model = self.load(name)
            picture = checked("photo", content)
            if picture.image is None:
                raise UserError(f"the photo: {picture.error}; give another one")
            [(_, photo)] = model.stream([picture], attention=attention)
        faces = Results([photo]).to_json()[0]["faces"]
        for face, found in zip(faces, photo.faces, strict=True):
            if found.relevance is not None and found.aligned is not None:
                face["attention"] = _data(Image.fromarray(overlay(found.aligned, found.relevance)).resize((160, 160)))
        drawn = draw.annotated(picture.image, photo)
        drawn.thumbnail((1280, 1280))
        return {"picture": _data(drawn), "faces": faces}


def _data(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


class _Handler(BaseHTTPRequestHandler):
    server: Demo

    def do_GET(self) -> None:
        if not self._from_here():
            return
        if urlsplit(self.path).path != "/":
            self.send_error(404)
            return
        names = json.dumps(list(self.server.models)).replace("<", "\\u003c")
        self._send(_PAGE.read_text().replace("[/*models*/]", names).encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._from_here():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.send_error(413, f"at most {MOST_BYTES:,} bytes")
            return
        asked = parse_qs(urlsplit(self.path).query)
        content = self.rfile.read(int(length))
        try:
            said = self.server.answer(asked.get("model", [""])[0], content, "attention" in asked)
        except UserError as error:
            said = {"error": str(error)}
        self._send(json.dumps(said).encode(), "application/json")

    def _from_here(self) -> bool:
        """Refuse other sites that point their name at this address, or whose pages send something here."""
        own = {f"{host}:{self.server.server_port}" for host in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in own and (origin is None or urlsplit(origin).netloc in own):
            return True
        self.send_error(403, "only for this machine")
        return False

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Security-Policy": _POLICY}
        for name, value in (headers | {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """No line per request."""


def models(chosen: Path | None, packaged: Path, results: Path = Path("results")) -> dict[str, Path]:
    """What the page offers: ``chosen``, the model that comes along, every finished run. Raises UserError: nothing."""
    found = {"": chosen} if chosen else {}
    found |= {"the model that comes along": packaged} if packaged.is_file() else {}
    runs = sorted(results.glob("*/runs/*/*/seed*/model.safetensors"))
    named = {"/".join(np.array(path.parts)[[-6, -4, -3, -2]]): path for path in runs}
    result = {name or str(path): path for name, path in found.items()} | named
    if not result:
        raise UserError("no model comes with this copy, and results/ has no run; train one, or give --model RUN")
    return result
