"""`python -m sinks.ddl` writes the tables' files anew from their declarations, after those were changed."""

from pathlib import Path

from sinks.ddl.render import table_sql
from sinks.tables import TABLES

if __name__ == "__main__":
    for table in TABLES.values():
        (Path(__file__).parent / f"{table.name}.sql").write_text(table_sql(table))
