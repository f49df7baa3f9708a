"""One module a step; the newest is what `records.models` says."""
