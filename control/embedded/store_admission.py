"""What strangers may ask of the store: rules over ClickHouse's own reading of a query, and the limits it runs under.

The user `reader` may only read, and only what the tables hold. Read-only settings do not see to that: `file('/etc/…')`
reads any file, `INTO OUTFILE` writes one and `url` reaches into the network, all of them in SELECTs. Nor would looking
for bad words in the text: names can be quoted, commented, put together from parameters. So the text goes to the engine
with `EXPLAIN AST`, which parses it as it would for execution, parameters put in, and executes nothing; every node of
the tree must then be one that is known to be harmless.

    kinds of nodes        those of SELECTs; a new kind of a new release is refused until somebody looked at it
    the root              one SELECT, perhaps with a FORMAT; no SETTINGS, no INTO OUTFILE
    table functions       those of `TABLE_FUNCTIONS`, and our views with parameters
    tables                ours by name, those of WITH, and some of `system` that clients need. Any other name may be a
                          file's: the engine's `default` database lies over the file system, so `'/etc/passwd'` is a
                          table, and so is a plain word if a file in the folder of the process is called so
    other functions       all but those that reach out of the query
    behind IN             values, and the tables and table functions that may stand in FROM
    the text              no `;` at all, so that whatever one parser takes for a comment, there is no second statement
    names                 nothing that could be taken for a line of the tree or a part of one

The tree does not escape names, so one with a line feed in it could forge nodes. Therefore the engine also writes the
query as it understood it (`formatQuerySingleLine`), where names stand in quotes and escapes; `read_names` reads that.

No input or output here: `judge` gets the tree as text, `read_names` the query as the engine writes it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control.embedded.store_sql import StoreError, refusal
from sinks.ddl import PARAMETERISED, VIEWS
from sinks.tables import all_tables

READER: Final = "reader"
"""The user that may only ask."""

ACCESS_DENIED: Final = 497
READONLY: Final = 164

LIMITS: Final[Mapping[str, int]] = {
    "max_execution_time": 30,
    "max_memory_usage": 1 << 30,
    "max_threads": 2,
    "max_rows_to_read": 1_000_000_000,
    "max_result_rows": 10_000_000,
    "max_result_bytes": 2 << 30,
    "max_ast_depth": 500,
    "max_ast_elements": 10_000,
    "max_expanded_ast_elements": 50_000,
    "max_query_size": 256 << 10,
    "max_subquery_depth": 20,
    "max_columns_to_read": 500,
}
"""Setting → its greatest value. A day of a busy tape is 20 million rows and takes a second: 30 s and a thousand million
rows are for months of them. A GiB and two threads leave room for inserts beside a handful of strangers."""

WHOLE_BYTES_MAX: Final = 64 << 20
"""Greatest answer, in bytes of its columns, that is made whole before it is sent: the process holds it twice, as text
several times as long. More goes in a format that streams, of which it holds a piece."""

_CHOSEN: Final = re.compile(
    r"output_format_(arrow|parquet|native|json|csv|tsv|pretty|decimal|binary)_\w+"
    r"|session_timezone|date_time_output_format|log_comment|max_block_size|extremes"
)
"""Settings that a reader may choose. Those that name files, such as `format_schema`, are not among them."""

TABLE_FUNCTIONS: Final = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "values", "view"}
) | frozenset(PARAMETERISED)
"""Table functions that compute and reach nowhere, in lower case. What stands inside of `view` is judged too."""

TABLES: Final = frozenset(name for table in (*all_tables(), *VIEWS) for name in (table, f"default.{table}"))
"""Tables and views of ours, as a query may name them."""

SYSTEM_TABLES: Final = frozenset(f"system.{name}" for name in ("one", "numbers", "settings", "columns", "functions"))
"""Tables of `system` that clients look into; none tells of other people's queries, of files or of the machine, as
`system.tables` and `system.databases` do by their paths."""

_REACHING_OUT: Final = re.compile(
    r"file|hascolumnintable|ai[a-z]+|dict.*|joinget.*|catboost.*|sleep.*|logtrace|getmacro|getclienthttpheader"
    r"|getserver.*|gethttp.*|filesystem.*|(full)?host_?name|fqdn|tcpport|serveruuid|getoskernelversion|uptime"
    r"|currentrequesturl|addressto.*|demangle|naivebayes.*|generateserialid|hasthreadfuzzer|getsetting.*|globalvariable"
    r"|buildid|displayname|zookeeper.*|connectionid|connection_id|runningconcurrency|throwif"
)
"""Functions, in lower case, that read files, keep others waiting, ask the network or tell of the machine."""

_KINDS: Final = frozenset(
    {
        "SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "ExpressionList", "Asterisk",
        "QualifiedAsterisk", "Literal", "Identifier", "Function", "Subquery", "TablesInSelectQuery",
        "TablesInSelectQueryElement", "TableExpression", "TableIdentifier", "TableJoin", "ArrayJoin", "OrderByElement",
        "WithElement", "WindowDefinition", "WindowListElement", "SampleRatio", "ColumnsRegexpMatcher",
        "ColumnsListMatcher", "ColumnsTransformerList", "ColumnsExceptTransformer", "InterpolateElement",
        "StorageOrderByElement",
    }
)  # fmt: skip
"""Nodes of a SELECT. Not among them: `Set` (settings), and `ColumnsApplyTransformer`, which hides a function's name."""

_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?P<name>(?:[^`\\]|\\.)*)`")
_WITH_NAME: Final = re.compile(r"(?<![\w`.])(?P<name>[A-Za-z_]\w*)(?: ?\([^()]*\))? AS(?: MATERIALIZED)? \(")
_WORD: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_UNREADABLE: Final = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]|\((alias|children) ")
_IDENTIFIER: Final = re.compile(r"\{(?P<name>\w+):\s*Identifier\}")

_NODE: Final = re.compile(r"(?P<kind>[A-Za-z]+)(?: (?P<name>.*?))?(?: \(alias .*\))?\s*(?:\(children \d+\))?")
_LOOKS_IN: Final = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)


@dataclass(slots=True)
class Node:
    """A node of the tree: what it is, its name or value, and what stands below it."""

    kind: str
    name: str
    children: "list[Node]" = field(default_factory=list)

    def walk(self) -> "Iterator[Node]":
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_tree(text: str) -> Node:
    """The tree that `EXPLAIN AST` printed.

    Raises:
        StoreError: a line of it is not a node, as after a name with a line feed in it.
    """
    above: list[Node] = []
    for line in text.rstrip("\n").split("\n"):
        depth = len(line) - len(line.lstrip(" "))
        match = _NODE.fullmatch(line[depth:])
        if match is None or depth > len(above) or (depth == 0 and above):
            raise _denied("it holds a name that cannot be read")
        node = Node(match["kind"], match["name"] or "")
        if depth:
            above[depth - 1].children.append(node)
        above[depth:] = [node]
    if not above:
        raise _denied("it is empty")
    return above[0]


def read_names(written: str, parameters: Mapping[str, str]) -> frozenset[str]:
    """The names that a query gives to its own tables in WITH, those that are plain words.

    A name in quotes is not among them, nor is one that only a parameter says; they are not worth the care.

    Args:
        written: the query in one line, as the engine writes it.
        parameters: values of its parameters, escaped as in the request.

    Raises:
        StoreError: it holds a name that could be mistaken for something else in the tree.
    """
    values = [parameters.get(match["name"], "") for match in _IDENTIFIER.finditer(written)]
    quoted = [match["name"] or "" for match in _QUOTED.finditer(written)]
    if "\n" in written or any(_UNREADABLE.search(name) for name in (*values, *quoted)):
        raise _denied("it holds a name that cannot be read")
    return frozenset(match["name"] for match in _WITH_NAME.finditer(_QUOTED.sub("``", written)))


def judge(tree: str, own: Collection[str] = ()) -> None:
    """Let a query pass, by its tree.

    Args:
        tree: as `EXPLAIN AST` prints it.
        own: names of tables that are the query's own, from `read_names`; none of them may be a file's too.

    Raises:
        StoreError: it is no SELECT, or reaches for something that is not allowed; which one is said.
    """
    root = read_tree(tree)
    if root.kind != "SelectWithUnionQuery":
        raise _denied("only SELECT is allowed")
    if [child.kind for child in root.children] not in (["ExpressionList"], ["ExpressionList", "Identifier"]):
        raise _denied("SETTINGS and INTO OUTFILE are not allowed")
    for node in root.walk():
        if node.kind not in _KINDS:
            raise _denied("SETTINGS are not allowed" if node.kind == "Set" else f"{node.kind} is not allowed")
        if node.kind == "TableExpression":
            _judge_source(node, own)
        elif node.kind == "Function":
            _judge_function(node, own)
        elif node.kind == "Identifier" and _is_foreign(node.name):
            raise _denied(f"{node.name} is not allowed")


def check_text(text: str) -> None:
    """Refuse a text that could be more than one statement to some parser.

    Raises:
        StoreError: it holds a semicolon or a zero byte.
    """
    if ";" in text.rstrip().rstrip(";") or "\0" in text:
        raise _denied("a semicolon may only end it; give text that has one as a parameter")


def settings_of(chosen: Mapping[str, str], *, whole: bool = False) -> dict[str, str]:
    """Settings that a reader's query runs with: the limits, lowered where asked, and what may be chosen.

    Args:
        chosen: what the request asks for.
        whole: whether the answer is made whole before it is sent.

    Raises:
        StoreError: a setting that may not be chosen, or a limit that is no number.
    """
    limits = {**LIMITS, "max_result_bytes": WHOLE_BYTES_MAX} if whole else LIMITS
    out = {name: str(limit) for name, limit in limits.items()}
    out |= {"timeout_overflow_mode": "throw", "read_overflow_mode": "throw", "result_overflow_mode": "throw"}
    out |= {"allow_ddl": "0", "max_execution_speed": "0", "timeout_before_checking_execution_speed": "0"}
    for name, value in chosen.items():
        if name in limits:
            if not (value.isascii() and value.isdecimal()):
                raise refusal(READONLY, "READONLY", f"{name} must be a whole number")
            out[name] = str(min(limits[name], int(value) or limits[name]))
        elif _CHOSEN.fullmatch(name):
            out[name] = value
        elif name not in out:
            raise refusal(READONLY, "READONLY", f"Cannot modify '{name}' setting: a reader may not choose it")
    return out


def _judge_source(expression: Node, own: Collection[str]) -> None:
    """What a FROM or JOIN reads."""
    for node in expression.children:
        if node.kind == "Function" and node.name.lower() not in TABLE_FUNCTIONS:
            raise _denied(f"the table function {node.name} is not allowed")
        if node.kind == "TableIdentifier" and not (node.name in SYSTEM_TABLES or _is_table(node.name, own)):
            raise _denied(f"the table {node.name} is not allowed")


def _judge_function(node: Node, own: Collection[str]) -> None:
    name = node.name.lower()
    if _WORD.fullmatch(name) is None or _REACHING_OUT.fullmatch(name):
        raise _denied(f"the function {node.name} is not allowed")
    if _LOOKS_IN.fullmatch(name):
        for argument in node.children[0].children[1:] if node.children else ():
            if argument.kind == "Function" and argument.name.lower() not in ("tuple", "array", *TABLE_FUNCTIONS):
                raise _denied(f"{argument.name} after IN is not allowed")
            if argument.kind == "Identifier" and not _is_table(argument.name, own):
                raise _denied(f"{argument.name} after IN is not allowed")


def _is_table(name: str, own: Collection[str]) -> bool:
    """Whether a name is that of a table of ours or of the query's own, and of nothing else."""
    return name in TABLES or name in own


def _is_foreign(name: str) -> bool:
    """Whether a name is, or may be, that of a table of another database."""
    return name.split(".")[0].lower() in ("system", "information_schema") and name not in SYSTEM_TABLES


def _denied(why: str) -> StoreError:
    return refusal(ACCESS_DENIED, "ACCESS_DENIED", f"{READER}: the query is not admitted: {why}")
