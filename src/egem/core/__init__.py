"""The ground floor: errors, configuration files, logging. No domain knowledge, no torch."""
