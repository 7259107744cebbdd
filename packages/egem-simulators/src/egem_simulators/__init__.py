"""LIBERO and SimplerEnv, each in an environment of its own, driven by egem through a pipe."""
