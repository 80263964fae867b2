"""How any stage is run: config, plan, commit, shards, runner, progress. Knows no faces."""
