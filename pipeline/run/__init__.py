"""Running stages: the plan, the loop, and the places where shards are made."""
