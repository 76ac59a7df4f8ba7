"""The report of one or several runs: one HTML page with figures and audio files."""
