"""Runs the steps on the connection, and in the transaction, that `records.database` hands over."""

from __future__ import annotations

from alembic import context

from records.database import VERSION_TABLE
from records.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite can change few things about a table in place
)
context.run_migrations()
