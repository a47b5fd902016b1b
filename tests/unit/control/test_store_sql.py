import pytest

from control.embedded.store_sql import StoreError, engine_error, join, parse


@pytest.mark.parametrize(
    ("request_text", "text", "verb", "name", "data"),
    [
        (b"SELECT 1", "SELECT 1", "SELECT", None, None),
        (b"select 1 format JSON", "select 1 format JSON", "SELECT", "JSON", None),
        (b"select 1\n FORMAT Native", "select 1\n FORMAT Native", "SELECT", "Native", None),
        (b"SELECT 1 FORMAT CSV SETTINGS n = 1;", "SELECT 1 FORMAT CSV SETTINGS n = 1", "SELECT", "CSV", None),
        (b"SELECT format FROM t", "SELECT format FROM t", "SELECT", None, None),
        (b"SELECT format('{}', x), 'a FORMAT b' FROM t -- FORMAT x", None, "SELECT", None, None),
        (b"SELECT (SELECT 1 FORMAT TSV) x", None, "SELECT", None, None),
        (b"/* insert */ SELECT ';' -- ;\n", "/* insert */ SELECT ';' -- ;", "SELECT", None, None),
        (b"INSERT INTO t FORMAT TSV\n1\n2\n", "INSERT INTO t", "INSERT", "TSV", b"1\n2\n"),
        (b"INSERT INTO t (a) FORMAT Native \r\n\xff\x00\n", "INSERT INTO t (a)", "INSERT", "Native", b"\xff\x00\n"),
        (b"INSERT INTO t (`format`) FORMAT CSV 1", "INSERT INTO t (`format`)", "INSERT", "CSV", b"1"),
        (b"INSERT INTO t SETTINGS n=0 FORMAT CSV\n", "INSERT INTO t SETTINGS n=0", "INSERT", "CSV", b""),
        (b"INSERT INTO t VALUES (';'), ('x FORMAT y')", None, "INSERT", None, None),
        (b"INSERT INTO t SELECT 1 FORMAT TSV", "INSERT INTO t SELECT 1 FORMAT TSV", "INSERT", None, None),
        (b"SELECT $a$ it's; $a$", "SELECT $a$ it's; $a$", "SELECT", None, None),
    ],
)  # fmt: skip
def test_statement_ends_where_data_begins(request_text, text, verb, name, data) -> None:
    found = parse(request_text)
    assert (found.verb, found.format, found.data) == (verb, name, data)
    if text is not None:
        assert found.text.strip() == text


@pytest.mark.parametrize(
    "bad", [b"", b"  ", b"-- nothing", b"SELECT 1; SELECT 2", b"SELECT 1;;x", b"SELECT '\xff'", b";"]
)
def test_empty_several_and_undecodable_are_refused(bad) -> None:
    with pytest.raises(StoreError) as caught:
        parse(bad)
    assert caught.value.code == 62
    assert caught.value.status == 400


def test_address_comes_before_body() -> None:
    assert join(b"INSERT INTO t FORMAT TSV", b"1\n") == b"INSERT INTO t FORMAT TSV\n1\n"
    assert join(b"", b"SELECT 1") == b"SELECT 1"
    assert join(b"SELECT 1", b"") == b"SELECT 1"


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("Code: 60. DB::Exception: no table. (UNKNOWN_TABLE)", 60, 404),
        ("Streaming insert finish failed: Code: 27. DB::Exception: x", 27, 400),
        ("Code: 164. DB::Exception: x", 164, 500),
        ("Code: 516. DB::Exception: x", 516, 403),
        ("something else", 1002, 500),
    ],
)
def test_errors_keep_code_and_status(text, code, status) -> None:
    error = engine_error(text)
    assert (error.code, error.status) == (code, status)
    assert not error.message.startswith("Streaming")
