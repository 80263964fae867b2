"""How a command, or a call from Python, runs a job: its settings, its stages, its workers."""
