"""The weekly link check finds the addresses in prose, and tells dead ones from those that keep programs out."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import external_links
import pytest

ANSWERS = {"/fine": 200, "/gone": 404, "/guarded": 403, "/broken": 500}


class Server(BaseHTTPRequestHandler):
    """Answers by path; /get knows no HEAD, /second fails the first two times, /hop leads to /fine."""

    asked: ClassVar[Counter] = Counter()

    def do_HEAD(self):
        type(self).asked[self.path] += 1
        status = ANSWERS.get(self.path, 200)
        if self.path == "/get" and self.command == "HEAD":
            status = 405
        if self.path == "/second" and self.asked[self.path] <= 2:
            status = 500
        if self.path == "/hop":
            status = 302
        self.send_response(status)
        if self.path == "/hop":
            self.send_header("Location", "/fine")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    Server.asked = Counter()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("path", "want"),
    [("/fine", ""), ("/hop", ""), ("/get", ""), ("/second", ""), ("/gone", "HTTP 404"), ("/broken", "HTTP 500"),
     ("/guarded", "guarded (403)")],
)  # fmt: skip
def test_what_an_address_answers(server, path, want):
    assert external_links.answer(server + path, pause=0) == want
    if path == "/gone":
        assert Server.asked[path] == 2  # once by HEAD and once by GET: it does not come back for that


def test_where_nobody_answers_is_dead(server):
    assert external_links.answer("http://127.0.0.1:1/", pause=0, timeout=2)


def test_addresses_end_where_the_sentence_goes_on():
    text = (
        "See [Eq. 4](https://arxiv.org/abs/2305.18290#page=4), <https://a.org/x>, (https://b.org/y_(z)). "
        "`https://c.org/`\n| https://d.org/t | **https://e.org**; again https://a.org/x. http://localhost:8888/lab"
    )
    assert external_links.addresses(text) == [
        "https://arxiv.org/abs/2305.18290", "https://a.org/x", "https://b.org/y_(z)", "https://c.org/", "https://d.org/t",
        "https://e.org",
    ]  # fmt: skip


def test_a_dead_address_fails_and_says_where_it_stands(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(external_links, "NOBODY", external_links.re.compile("localhost"))
    (tmp_path / "notebooks").mkdir()
    cells = [{"cell_type": "markdown", "source": [f"[a]({server}/gone)\n", "b"]}, {"cell_type": "code", "source": []}]
    (tmp_path / "notebooks" / "00.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "README.md").write_text(f"{server}/fine and {server}/guarded", encoding="utf-8")
    assert external_links.main(["--root", str(tmp_path), "--pause", "0"]) == 1
    said = capsys.readouterr().out
    assert f"{server}/gone  in notebooks/00.ipynb" in said and "addresses asked: 3, dead: 1" in said
    (tmp_path / "notebooks" / "00.ipynb").unlink()
    assert external_links.main(["--root", str(tmp_path), "--pause", "0"]) == 0


def test_it_reads_the_lessons():
    found = external_links.everywhere(external_links.ROOT)
    assert any("notebooks/05_the_closed_form.ipynb" in files for files in found.values())
    assert any(address.startswith("https://arxiv.org/") for address in found)
