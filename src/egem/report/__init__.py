"""Pictures and pages: depth panels, curves, point clouds, one self-contained HTML page per run."""
