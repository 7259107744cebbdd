"""The embedded environment: a table that obeys physics, an arm, and tasks told in words."""
