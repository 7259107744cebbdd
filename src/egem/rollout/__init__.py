"""Playing episodes: a policy, a scripted expert or recorded actions in a simulated environment, counted and kept."""
