"""Hostile clients of the running demo: the checks of `tests/reliability/demo.py`, and requests that no page makes."""

from tests.demo_server import HOST
from tests.reliability.demo import answers, checks


def test_every_check_passes(tmp_path):
    found = list(checks(tmp_path, quick=True))
    assert len(found) == 5
    assert not [check for check in found if not check.passed]


def test_a_request_that_is_not_the_pages_gets_no_traceback(demo):
    """Whatever is sent, what comes back is short and tells nothing of the server; it goes on answering."""
    for path in ("/ask", "/photo", "/ask?box=1", "/ask?question=%00", "/photo?example=x", "/ask?example=0&choices=a"):
        for body in (b"", b"{}", b"\0" * 1000):
            status, text = demo.request("POST", path, body)
            assert status in (200, 404)
            assert "Traceback" not in text and "site-packages" not in text and len(text) < 2000
    assert answers(demo)


def test_other_names_of_the_loopback_are_no_way_in(demo):
    for host in ("127.0.0.1.nip.io", "[::1]", "0.0.0.0", "localhost.evil.example", f"{HOST}@evil.example", ""):
        assert demo.request("GET", "/", host=f"{host}:{demo.port}")[0] == 400
