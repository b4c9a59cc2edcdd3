"""Which encoding a text file has, and its lines with a bound on their length (torch-free)."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from charset_normalizer import from_bytes
from msgspec import Struct

from so8t_engine.errors import DataError

MAX_LINE_BYTES = 4 * 1024 * 1024
_PROBE_BYTES = 256 * 1024
_CHUNK = 1024 * 1024
_CANDIDATES = ["cp932", "euc_jp", "cp1252", "latin_1", "gb18030", "euc_kr", "big5"]
_WIDE_CANDIDATES = ["utf_16_le", "utf_16_be"]
# What a reader may be told to use when the detection is wrong, as Python names them.
ENCODINGS: tuple[str, ...] = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp932", "euc_jp", "cp1252", "latin-1", "gb18030",
    "euc_kr", "big5",
)  # fmt: skip
_KANA = re.compile("[\u3041-\u30fa\u30fc-\u30fe]")
_CJK = re.compile(
    "[\u3000-\u30ff\u3400-\u9fff\uff01-\uff5e\u2010-\u2026\u25a0-\u25ff\u2190-\u2193]"
)
_BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive or Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"GGUF", "a model file"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (b"SQLite format 3", "a database"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"7z\xbc\xaf", "an archive"),
    (b"Rar!", "an archive"),
)
Progress = Callable[[int, int], None]


class Line(Struct, frozen=True, array_like=True):
    """One line without its line end; ``text`` is None where it cannot be read."""

    number: int
    text: str | None
    problem: str = ""
    raw: bytes = b""


def detect_encoding(path: Path) -> str:
    """Return the encoding of a text file as Python names it.

    A BOM decides; else UTF-8 if at least all but a few bytes of the file are valid; only then
    charset-normalizer is asked, restricted to encodings that people's files really have.

    Raises:
        DataError: if the file is not text.
        OSError: if it cannot be read.
    """
    with path.open("rb") as stream:
        probe = stream.read(_PROBE_BYTES)
        for bom, name in _BOMS:
            if probe.startswith(bom):
                return name
        for magic, kind in _MAGIC:
            if probe.startswith(magic):
                raise DataError(
                    f"{path.name} is {kind}, not a dataset.",
                    next_step="Export the table as CSV or JSON Lines and import that.",
                )
        wide = _utf16_without_bom(probe)
        if wide:
            return wide
        if probe.count(0) > len(probe) // 100:
            raise _binary(path)
        if _mostly_utf8(probe, stream):
            return "utf-8"
    sample = _sample_of_high_bytes(path, probe)
    # Text in UTF-16 has zero bytes at its line ends; text in any other of these never has one.
    candidates = _WIDE_CANDIDATES if 0 in probe else _CANDIDATES
    if candidates is _CANDIDATES and (japanese := _japanese(sample)):
        return japanese
    best = from_bytes(sample, cp_isolation=candidates, threshold=0.4).best()
    if best is None:
        controls = sum(byte < 32 and byte not in b"\t\r\n\x0b\x0c\x1b" for byte in probe)
        if controls > len(probe) // 100:
            raise _binary(path)
        return "cp1252"
    found = codecs.lookup(best.encoding).name
    return {"iso8859-1": "cp1252", "shift_jis": "cp932"}.get(found, found)


def _binary(path: Path) -> DataError:
    return DataError(
        f"{path.name} is a binary file, not a dataset.",
        next_step="Choose a JSON Lines, JSON, CSV, TSV or Parquet file.",
    )


def _japanese(sample: bytes) -> str:
    """Return cp932 or euc_jp where the sample reads as Japanese in it, else ''.

    A few lines are too little for statistics. But hiragana in one of the two encodings is invalid,
    or half-width katakana, in the other, and bytes 0x81 to 0x9F begin a character in cp932 only.
    """
    for name in ("cp932", "euc_jp"):
        text = sample.decode(name, "replace")
        beyond = [sign for sign in text if ord(sign) > 127]
        fitting = len(_CJK.findall(text))
        if not beyond or fitting < 0.9 * len(beyond):
            continue
        lead = sum(0x81 <= byte <= 0x9F for byte in sample)
        if _KANA.search(text) or (name == "cp932" and lead * 2 >= fitting):
            return name
    return ""


def _utf16_without_bom(probe: bytes) -> str:
    """Return utf-16-le or -be where every other byte of mostly ASCII text is zero, else ''."""
    even, odd = probe[0::2], probe[1::2]
    for name, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high.count(0) > len(high) * 0.2 and low.count(0) <= len(low) * 0.01:
            text = probe[:4096].decode(name, "ignore")
            if any(sign in text for sign in ',\t{"'):
                return name
    return ""


def _mostly_utf8(probe: bytes, rest: BinaryIO) -> bool:
    """Tell whether the file is UTF-8; a few damaged bytes among many good ones are forgiven."""
    position = rest.tell()
    strict = codecs.getincrementaldecoder("utf-8")()
    try:
        chunk = probe
        while chunk:
            strict.decode(chunk)
            chunk = rest.read(_CHUNK)
        strict.decode(b"", True)
        return True
    except UnicodeDecodeError:
        rest.seek(position)
    lenient = codecs.getincrementaldecoder("utf-8")("replace")
    good, bad = 0, 0
    chunk = probe
    while chunk:
        text = lenient.decode(chunk)
        bad += text.count("\ufffd")
        good += max(len(chunk) - len(text), 0)  # bytes that continue a well-formed character
        if bad > 64 and bad * 20 > good:
            return False
        chunk = rest.read(_CHUNK)
    return bad * 20 <= good


def _sample_of_high_bytes(path: Path, probe: bytes) -> bytes:
    """Return a piece of the file that has bytes outside of ASCII, at most 64 KiB of whole lines."""
    size = 64 * 1024
    if not probe.isascii():
        first = next(index for index, byte in enumerate(probe) if byte > 127)
        start = probe.rfind(b"\n", 0, first) + 1
        return probe[start : start + size]
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            if not chunk.isascii():
                first = next(index for index, byte in enumerate(chunk) if byte > 127)
                start = max(chunk.rfind(b"\n", 0, first) + 1, 0)
                return chunk[start : start + size]
    return probe[:size]


def iter_lines(
    path: Path, encoding: str, progress: Progress | None = None
) -> Generator[Line, None, None]:
    """Yield the lines of a text file. Memory stays bounded by :data:`MAX_LINE_BYTES`.

    A line that is longer or not valid in ``encoding`` comes with ``text=None`` and the problem as
    a sentence; the lines after it are read all the same.
    """
    total = path.stat().st_size
    with path.open("rb") as stream:
        if encoding.startswith(("utf-16", "utf-32")):
            yield from _wide_lines(stream, encoding, total, progress)
        else:
            yield from _byte_lines(stream, encoding, total, progress)


def _byte_lines(
    stream: BinaryIO, encoding: str, total: int, progress: Progress | None
) -> Generator[Line, None, None]:
    codec = "utf-8" if encoding == "utf-8-sig" else encoding
    number, position = 0, 0
    while line := stream.readline(MAX_LINE_BYTES + 2):
        number += 1
        position += len(line)
        if progress is not None and number % 512 == 1:
            progress(position, total)
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE_BYTES + 1 and not line.endswith(b"\n"):
            length = len(line)
            while (more := stream.readline(_CHUNK)) and not more.endswith(b"\n"):
                length += len(more)
                if progress is not None:
                    progress(position + length, total)
            position = stream.tell()
            yield Line(number, None, _too_long(), line[:2000])
            continue
        line = line.rstrip(b"\r\n")
        try:
            yield Line(number, line.decode(codec))
        except UnicodeDecodeError as error:
            problem = f"byte {error.start + 1} of this line is not valid {codec}"
            yield Line(number, None, problem, line)


def _wide_lines(
    stream: BinaryIO, encoding: str, total: int, progress: Progress | None
) -> Generator[Line, None, None]:
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
    number = 0
    try:
        while line := text.readline(MAX_LINE_BYTES):
            number += 1
            if progress is not None and number % 512 == 1:
                progress(min(stream.tell(), total), total)
            if len(line) == MAX_LINE_BYTES and not line.endswith(("\n", "\r")):
                while (more := text.readline(_CHUNK)) and not more.endswith(("\n", "\r")):
                    pass
                yield Line(number, None, _too_long(), line[:2000].encode("utf-8", "replace"))
                continue
            yield Line(number, line.rstrip("\r\n").removeprefix("\ufeff"))
    finally:
        text.detach()  # the caller closes the file


def _too_long() -> str:
    return f"the line is longer than {MAX_LINE_BYTES // 1024 // 1024} MiB"
