"""What the bytes and the name of an image are, for messages that say what to do about one that cannot be read."""

from __future__ import annotations

import re

HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # brands of its container
NO_HEIC = (
    "HEIC, as iPhones save photos, cannot be read. Convert it to JPEG, or `pip install pillow-heif`; on the phone: "
    "Settings, Camera, Formats, Most Compatible"
)
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

# How a file begins -> what it is and what to do.
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the image itself: run `git lfs pull` in its repository",
    b"%pdf": "a PDF: save its page as PNG",
    b"pk\x03\x04": "a ZIP archive: unpack it",
    b"\x1f\x8b": "a gzip archive: unpack it",
    b"<svg": "an SVG drawing: save it as PNG",
    b"<!doctype html": "an HTML page: the download failed, and the page says why",
    b"<html": "an HTML page: the download failed, and the page says why",
    b"<?xml": "XML, an answer of a server or an SVG drawing: download the image anew, or save it as PNG",
    b"{": "JSON, an answer of a server perhaps: download the image anew",
    b"8bps": "a Photoshop file: save it as PNG",
    b"\x1aE\xdf\xa3".lower(): "a video: save its frames as images",
    b"data:": "a data URI: save what it holds as a file, or use a table",
}


def is_image(data: bytes) -> bool:
    """Whether bytes begin as an image does, readable here or not."""
    return data.startswith(_IMAGES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:8] == b"ftyp"


def is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in HEIC


def what_bytes_are(data: bytes) -> str:
    """What the first bytes of something that is no image show it to be, and the way out; "" where they show nothing."""
    if not data:
        return "an empty file (0 bytes): the copy or download failed"
    if data[4:8] == b"ftyp":
        return "a video: save its frames as images"
    if not data.strip(b"\0"):
        return "a file of zeros: the copy or download failed"
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for start, what in _OTHERS.items() if text.startswith(start)), "")


def what_name_is(name: str) -> str:
    """What a text is that cannot name an image file, and the way out; "" for a path."""
    if name[:5].lower() == "data:":
        return "is a data URI, which only tables may hold: `hart-lite data convert` makes files of them"
    if name[:7].lower() == "file://":
        return "is an address: give the path alone, without file://"
    if _ADDRESS.match(name):
        return "is an address, and nothing is fetched: download the image and give its file"
    return ""


def why_missing(name: str) -> str:
    """Why there may be no file of this name; "" where its form shows nothing."""
    if name != name.strip():
        return "; there is a blank at its beginning or end, which is part of the name"
    if _DRIVE.match(name) or "\\" in name:
        return "; it is a Windows path: write / instead of \\, relative to the folder of the images"
    if name.startswith("~"):
        return "; ~ is not replaced: write the whole path"
    return ""
