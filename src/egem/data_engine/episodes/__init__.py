"""Readers and writers of robot episodes, each in its own module; nothing is imported here, as decoders are heavy."""
