"""`python -m sinks.ddl` writes the tables' files anew from their declarations, after those were changed."""

from pathlib import Path

from sinks.ddl.render import table_sql
from sinks.tables import all_tables

if __name__ == "__main__":
    for table in all_tables().values():
        (Path(__file__).parent / f"{table.name}.sql").write_text(table_sql(table))
