"""The web interface: an HTTP API for scripts, a page for operators, figures for Prometheus.

It reads and steers by the functions that the commands call too, and holds no rule of its own.
"""
