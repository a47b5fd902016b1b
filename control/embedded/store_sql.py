"""Reading a ClickHouse HTTP request without executing it: where the statement ends and its data begins.

Over HTTP, ClickHouse takes a statement from the address, from the body, or from both joined by a line feed, and an
`INSERT … FORMAT Name` is followed by its data in whatever format, binary too. Whoever stands between a client and the
engine must find that seam. This module does it on bytes with a tokenizer that knows ClickHouse's quotes and comments,
and nothing else of SQL. It also knows which HTTP status an error code has on a real server.

No input or output here; the engine is in `store_engine`, HTTP in `store_http`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

_TOKEN: Final = re.compile(
    rb"""
    (?P<blank>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
  | (?P<curled>\xe2\x80\x98.*?\xe2\x80\x99|\xe2\x80\x9c.*?\xe2\x80\x9d)
  | (?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<other>[0-9]\w*|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_AFTER_FORMAT: Final = re.compile(rb"[ \t\f]*(?:\r?\n)?")
_STATE_WORDS: Final = frozenset({"SET", "USE"})
_ROW_WORDS: Final = frozenset({"SELECT", "WITH"})

SYNTAX_ERROR: Final = 62
NOT_IMPLEMENTED: Final = 48
SESSION_IS_LOCKED: Final = 373
AUTHENTICATION_FAILED: Final = 516
LIMIT_EXCEEDED: Final = 290
INTO_OUTFILE_NOT_ALLOWED: Final = 174
UNKNOWN: Final = 1002

_STATUS: Final = {
    400: (6, 26, 27, 36, 38, 41, 43, 53, 62, 69, 72, 117, 427, 457),
    401: (194,),
    403: (192, 193, 497, 512, 516),
    404: (46, 47, 50, 56, 60, 63, 73, 78, 81, 100, 115),
    408: (159,),
    413: (181, 290),
    501: (48,),
    503: (76, 209),
}
"""HTTP status → error codes, as the server's own table has it; anything else is 500."""

_STATUS_OF_CODE: Final = {code: status for status, codes in _STATUS.items() for code in codes}


class StoreError(Exception):
    """An error as ClickHouse reports it.

    Args:
        code: ClickHouse's error code.
        message: text as the server gives it, from `Code: N. DB::Exception:` on.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)

    @property
    def status(self) -> int:
        """HTTP status that a real server answers with."""
        return _STATUS_OF_CODE.get(self.code, 500)


def refusal(code: int, name: str, text: str) -> StoreError:
    """An error of our own in the server's words."""
    return StoreError(code, f"Code: {code}. DB::Exception: {text}. ({name})")


def engine_error(text: str) -> StoreError:
    """The error that the engine raised, its code read from the text; 1002 (unknown exception) if it names none."""
    start = text.find("Code: ")
    text = text[max(start, 0) :].strip()
    match = re.match(r"Code: (\d+)\.", text)
    return StoreError(int(match[1]) if match else UNKNOWN, text)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and the data that came with it.

    Attributes:
        text: the SQL; for an insert with data, without its `FORMAT` clause.
        verb: first word, upper case.
        format: name in the `FORMAT` clause; None without one.
        data: bytes after `INSERT … FORMAT Name`; None for every other statement.
    """

    text: str
    verb: str
    format: str | None
    data: bytes | None

    @property
    def changes_session(self) -> bool:
        """Whether it changes the state of a session rather than the database."""
        return self.verb in _STATE_WORDS

    @property
    def gives_rows(self) -> bool:
        """Whether it is a query whose rows may be streamed."""
        return self.verb in _ROW_WORDS


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    start: int
    end: int


def join(in_address: bytes, in_body: bytes) -> bytes:
    """The whole request text: address first, a line feed between, as the server joins them."""
    return in_address + b"\n" + in_body if in_address and in_body else in_address or in_body


def read(in_address: bytes, in_body: bytes) -> Statement:
    """The statement of a request whose text stands in the address, in the body, or in both.

    A body that is data from its first byte, as drivers send inserts, becomes the statement's data as it is: joining a
    block of 32 MiB to its statement and cutting it off again took a fifth of the time of the insert.

    Raises:
        StoreError: empty, several statements, or not UTF-8 before the data.
    """
    if in_address and in_body:
        with suppress(StoreError):
            begun = parse(in_address + b"\n")
            if begun.data == b"":
                return replace(begun, data=in_body)
    return parse(join(in_address, in_body))


def parse(request: bytes) -> Statement:
    """The statement of a request.

    Raises:
        StoreError: empty, several statements, or not UTF-8 before the data.
    """
    words: list[_Token] = []
    depth, stop = 0, len(request)
    for match in _TOKEN.finditer(request):
        if match["blank"] is not None:
            continue
        text = match[0]
        depth += (text in b"([{") - (text in b")]}") if match["other"] is not None and len(text) == 1 else 0
        if text == b";" and depth == 0:
            _nothing_after(request, match.end())
            stop = match.start()
            break
        word = text.decode().upper() if match["word"] is not None and depth == 0 else ""
        words.append(_Token(word, match.start(), match.end()))
        if word == "OUTFILE" and len(words) > 1 and words[-2].word == "INTO":
            raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
        if words[0].word == "INSERT":
            if word in ("VALUES", "SELECT", "WITH"):
                break
            if word and len(words) > 2 and words[-2].word == "FORMAT":
                return _insert_with_data(request, words[-2], words[-1])
    if not words:
        raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: the query is empty")
    return Statement(_text(request[:stop]), words[0].word, _trailing_format(request, words), None)


def _insert_with_data(request: bytes, keyword: _Token, name: _Token) -> Statement:
    seam = _AFTER_FORMAT.match(request, name.end)
    data = request[seam.end() if seam else name.end :]
    return Statement(_text(request[: keyword.start]), "INSERT", request[name.start : name.end].decode(), data)


def _trailing_format(request: bytes, words: list[_Token]) -> str | None:
    """The name after the last `FORMAT` that ends the statement or stands before its `SETTINGS`."""
    for at in range(len(words) - 2, 0, -1):
        ends = at + 2 == len(words) or words[at + 2].word == "SETTINGS"
        if words[at].word == "FORMAT" and words[at + 1].word and ends:
            return request[words[at + 1].start : words[at + 1].end].decode()
    return None


def _nothing_after(request: bytes, start: int) -> None:
    for match in _TOKEN.finditer(request, start):
        if match["blank"] is None and match[0] != b";":
            raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: Multi-statements are not allowed")


def _text(sql: bytes) -> str:
    try:
        return sql.decode()
    except UnicodeDecodeError as error:
        raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", f"Syntax error: byte {error.start} is not UTF-8") from error
