"""Hostile clients of the running demo: the checks of `tests/reliability/demo.py`, and requests that no page makes."""

import json

from tests.reliability.demo import HOST, answers, checks


def test_every_check_passes(tmp_path):
    found = list(checks(tmp_path, quick=True))
    assert len(found) == 6
    assert not [check for check in found if not check.passed]


def test_a_request_that_is_not_the_pages_gets_no_traceback(demo):
    """Whatever is sent as an event, what comes back is short and tells nothing of the server; it goes on answering."""
    for data in ([], [1, 2, 3], [{}, "x", ""], ["x"] * 50, [{"path": None}, "x", ""], {"a": 1}, [[[]], {}, None]):
        for number in (0, 1, 2, 99, -1, "0", None):
            body = json.dumps({"data": data, "fn_index": number, "session_hash": "x", "event_data": {"number": data}})
            status, text = demo.request(
                "POST", "/gradio_api/queue/join", body.encode(), content_type="application/json"
            )
            assert status in (200, 400, 403, 404, 422, 500, 503)
            assert "Traceback" not in text and "site-packages" not in text and len(text) < 2000
    assert answers(demo)


def test_other_names_of_the_loopback_are_no_way_in(demo):
    for host in ("127.0.0.1.nip.io", "[::1]", "0.0.0.0", "localhost.evil.example", f"{HOST}@evil.example", ""):
        assert demo.request("GET", "/", host=f"{host}:{demo.port}")[0] == 403
