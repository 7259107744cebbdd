"""What training costs: speed side by side with a named baseline, and memory before a run is started."""
