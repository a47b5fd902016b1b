"""The rules alone, on trees as the engine prints them."""

import pytest

from control.embedded.store_admission import (
    LIMITS,
    READER,
    WHOLE_BYTES_MAX,
    check_text,
    judge,
    read_names,
    read_tree,
    settings_of,
)
from control.embedded.store_sql import StoreError

HEAD = """SelectWithUnionQuery (children 1)
 ExpressionList (children 1)
  SelectQuery (children 2)
   ExpressionList (children 1)
    Asterisk
   TablesInSelectQuery (children 1)
    TablesInSelectQueryElement (children 1)
     TableExpression (children 1)
"""


@pytest.mark.parametrize("source", ["TableIdentifier trades", "TableIdentifier default.trades (alias t)",
                                    "TableIdentifier system.one", "Function numbers (children 1)",
                                    "Function bars_of (alias b) (children 1)"])  # fmt: skip
def test_sources_that_compute_or_are_ours_pass(source: str) -> None:
    judge(HEAD + f"      {source}\n")


@pytest.mark.parametrize(
    "source",
    [
        "TableIdentifier /etc/passwd", "TableIdentifier default./etc/passwd", "TableIdentifier ? (alias t)",
        "TableIdentifier Makefile", "TableIdentifier default.known", "TableIdentifier schema_versions",
        "TableIdentifier system.processes", "TableIdentifier other.trades", "TableIdentifier default.a.b",
        "Function url (children 1)", "Function URL (alias x)", "Function executable", "Function viewIfPermitted",
    ],
)  # fmt: skip
def test_sources_that_reach_out_are_named_and_refused(source: str) -> None:
    with pytest.raises(StoreError) as caught:
        judge(HEAD + f"      {source}\n")
    assert caught.value.code == 497
    assert caught.value.status == 403
    assert source.split()[1] in caught.value.message
    assert READER in caught.value.message


@pytest.mark.parametrize(
    "root",
    ["InsertQuery", "Explain EXPLAIN", "SelectWithUnionQuery\n Literal 'out.csv'",
     "SelectWithUnionQuery\n ExpressionList\n Literal 'out.csv'",
     "SelectWithUnionQuery\n ExpressionList\n Identifier CSV\n Set"],
)  # fmt: skip
def test_anything_but_a_select_is_refused(root: str) -> None:
    with pytest.raises(StoreError, match="not admitted"):
        judge(root)


@pytest.mark.parametrize(
    "kind", ["Set", "ColumnsApplyTransformer", "SomethingNew x", "Function file", "Function sleep"]
)
def test_nodes_that_nobody_looked_at_are_refused_wherever_they_stand(kind: str) -> None:
    with pytest.raises(StoreError, match="not allowed"):
        judge(HEAD + f"      Subquery (children 1)\n       {kind}\n")


def test_what_stands_behind_in_is_a_value_or_ours() -> None:
    looked_up = "      TableIdentifier trades\n   Function globalNotIn\n    ExpressionList\n     Identifier a\n     "

    def tree(argument: str) -> str:
        return HEAD + looked_up + argument + "\n"

    for good in (
        "Literal 1",
        "Subquery",
        "Identifier known",
        "Identifier default.bins",
        "Function tuple",
        "Function numbers",
    ):
        judge(tree(good), {"known"})
    for bad in (
        "Identifier other.table",
        "Function url",
        "Function s3",
        "Identifier system.tables",
        "Identifier /etc/passwd",
        "Identifier x",
    ):
        with pytest.raises(StoreError):
            judge(tree(bad), {"known"})


def test_the_query_s_own_tables_are_read_from_how_the_engine_writes_it() -> None:
    written = (
        "WITH a AS (SELECT 1), b (x, y) AS (SELECT 'c AS (', 2), b2(x) AS (SELECT 1), "
        "5 AS d, `e f` AS (SELECT 3), 'g' AS `h`, "
        "`x.i` AS (SELECT 4), j AS MATERIALIZED (SELECT 5) SELECT k AS l FROM a"
    )
    assert read_names(written, {}) == {"a", "b", "b2", "j"}
    judge(HEAD + "      TableIdentifier a (alias t)\n", {"a"})


@pytest.mark.parametrize("name", ["a\\nb", "t (alias x", "t (children 1)", "a\\\\b", "a\tb", "a\u2028b"])
def test_names_that_could_forge_a_tree_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        read_names(f"SELECT 1 AS `{name}`", {})
    with pytest.raises(StoreError, match="cannot be read"):
        read_names("SELECT {x:Identifier}, {y:String}", {"x": name})
    assert read_names("SELECT '\\n (alias x', {x:String}", {"x": name}) == frozenset()


def test_a_text_is_one_statement_to_every_parser() -> None:
    check_text("SELECT 1")
    check_text("SELECT 1 ; \n")
    for text in ("SELECT 1; SELECT 2", "SELECT ';'", "SELECT 1 # ; x\n", "SELECT 1\0"):
        with pytest.raises(StoreError):
            check_text(text)


def test_settings_are_the_limits_and_what_may_be_chosen() -> None:
    assert {name: settings_of({})[name] for name in LIMITS} == {name: str(limit) for name, limit in LIMITS.items()}
    chosen = settings_of({"max_threads": "1", "output_format_json_quote_denormals": "1", "log_comment": "mine"})
    assert (chosen["max_threads"], chosen["log_comment"]) == ("1", "mine")
    for name, value in (
        ("readonly", "0"),
        ("output_format_schema", "x"),
        ("format_schema", "x"),
        ("max_threads", "-1"),
    ):
        with pytest.raises(StoreError) as caught:
            settings_of({name: value})
        assert caught.value.code == 164


def test_an_answer_that_is_made_whole_is_small() -> None:
    assert settings_of({}, whole=True) == {**settings_of({}), "max_result_bytes": str(WHOLE_BYTES_MAX)}
    for asked in ("0", "99999999999"):
        assert settings_of({"max_result_bytes": asked}, whole=True)["max_result_bytes"] == str(WHOLE_BYTES_MAX)
    assert settings_of({"max_result_bytes": "5"}, whole=True)["max_result_bytes"] == "5"


def test_a_tree_is_read_by_its_indents() -> None:
    tree = read_tree("A (children 2)\n B x y (alias z) (children 1)\n  C\n B\n")
    assert [(n.kind, n.name, len(n.children)) for n in tree.walk()] == [
        ("A", "", 2),
        ("B", "x y", 1),
        ("C", "", 0),
        ("B", "", 0),
    ]
    for text in ("", " A", "A\n   B", "A\nB", "A\n -"):
        with pytest.raises(StoreError):
            read_tree(text)
