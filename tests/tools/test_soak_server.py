"""The soak of a server: a short one, and that it sees what goes wrong."""

from __future__ import annotations

import http.client
from types import SimpleNamespace

import pytest
import soak_server
from soaking import MemoryWatch


@pytest.mark.slow
def test_short_soak_finds_nothing(capsys):
    options = ["--minutes", "0.05", "--clients", "8", "--parallel", "2", "--max-queue", "3"]
    assert soak_server.main([*options, "--prompts", "2", "--threads", "1"]) == 0
    assert "no fault" in capsys.readouterr().out


def answering(monkeypatch, status, body):
    """Let every request be answered in one way."""
    answer = SimpleNamespace(status=status, headers={"retry-after": "0"}, read=lambda: body)
    monkeypatch.setattr(http.client.HTTPConnection, "request", lambda *arguments: None)
    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", lambda self: answer)


def test_other_texts_are_told(monkeypatch):
    class Draw:
        def choice(self, options):
            return options[-1] if len(options) == 1 else options[1]  # not streamed

        def random(self):
            return 0.0

    clients = soak_server.Clients(1, [soak_server.Task("a", 1, 0.8, 5, "right")], 0)
    answering(monkeypatch, 200, b'{"choices": [{"text": "right"}]}')
    clients.ask(Draw(), leaves=False)
    assert clients.faults == []
    answering(monkeypatch, 200, b'{"choices": [{"text": "wrong"}]}')
    clients.ask(Draw(), leaves=False)
    assert "seed 5 gave another text than cpumix run" in clients.faults[0]
    answering(monkeypatch, 429, b"")
    clients.ask(Draw(), leaves=False)
    assert clients.faults[1:] == ["429 without a time"]
    answering(monkeypatch, 500, b"")
    with pytest.raises(ValueError, match="status 500"):
        clients.ask(Draw(), leaves=False)
    assert clients.counts == {"to the end": 2, "sent away": 1}


def test_what_is_left_is_told(monkeypatch):
    clients = soak_server.Clients(1, [], 0)
    idle = "\n".join(f"{name} 0.0" for name in soak_server.IDLE)
    monkeypatch.setattr(clients, "get", lambda path: idle)
    clients.wait_until_idle()
    assert clients.faults == []
    monkeypatch.setattr(soak_server, "PATIENCE", 0.01)
    monkeypatch.setattr(clients, "get", lambda path: idle.replace("perc 0.0", "perc 0.5"))
    clients.wait_until_idle()
    assert "texts or blocks are left: " in clients.faults[0]
    monkeypatch.setattr(clients, "ask", lambda draw, leaves: clients.count("sent away"))
    clients.fill(3)
    assert clients.faults[1] == "fewer than 3 places are left"


def test_faults_decide_the_status(capsys, monkeypatch):
    run, watch = soak_server.Clients(1, [], 0), MemoryWatch(int, 1)
    watch.samples = [1 << 30] * 8 + [3 << 30] * 8
    monkeypatch.setattr(soak_server, "soak", lambda *arguments: (run, watch))
    assert soak_server.main(["--ram", "4G"]) == 0
    assert soak_server.main(["--ram", "2G"]) == 1
    out = capsys.readouterr().out
    assert "late / early 3.000" in out
    assert "3.0 GiB of memory, above 2.0 GiB" in out
