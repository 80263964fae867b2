"""How any stage is run: config, plan, commit, shards, runner, progress. Knows nothing of faces."""
