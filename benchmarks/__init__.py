"""What is measured about temline's speed: each module is run by ``python -m benchmarks.NAME``."""
