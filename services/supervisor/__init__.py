"""The supervising server: it takes commands by PVs and by HTTP, and runs plans from a queue."""
