"""The command line: the only place that knows both the engine and the stages."""
