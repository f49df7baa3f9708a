"""The queue of requests, and the lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "queue_state",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_queue_state"),
    )
    op.create_table(
        "request",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("queue", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("function", sa.String, nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("client", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("batch", sa.String),
        sa.Column("proposal", sa.String),
        sa.Column("directory", sa.String),
        sa.Column("parent", sa.String),
        sa.Column("worker", sa.String),
        sa.Column("submitted", moment, nullable=False),
        sa.Column("started", moment),
        sa.Column("finished", moment),
        sa.Column("message", sa.String, nullable=False),
        sa.Column("run_uids", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_request"),
        sa.UniqueConstraint("id", name="uq_request_id"),
        sa.ForeignKeyConstraint(["queue"], ["queue_state.name"], name="fk_request_queue"),
        sa.ForeignKeyConstraint(["parent"], ["request.id"], name="fk_request_parent"),
    )
    op.create_index(
        "ix_request_order", "request", ["queue", "state", sa.text("priority DESC"), "place", "held"]
    )
    op.create_index("ix_request_history", "request", ["queue", "finished", "number"])
    op.create_index("ix_request_batch", "request", ["queue", "batch"])
    op.create_table(
        "transition",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("time", moment, nullable=False),
        sa.Column("old", sa.String),
        sa.Column("new", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_transition"),
        sa.ForeignKeyConstraint(["request"], ["request.id"], name="fk_transition_request"),
    )
    op.create_index("ix_transition_request", "transition", ["request"])
    op.create_table(
        "lease",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("holder", sa.JSON),
        sa.Column("since", moment),
        sa.Column("last_used", moment),
        sa.Column("locked_by", sa.String),
        sa.Column("asked_by", sa.JSON),
        sa.Column("asked_at", moment),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )


def downgrade() -> None:
    """Take them away, with all that is in them."""
    for table in ("lease", "transition", "request", "queue_state"):
        op.drop_table(table)
