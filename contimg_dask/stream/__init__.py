"""Follow the telescope: an ingest directory in, groups in the queue; for months.

The directory is the truth, and the catalogue remembers; what the process knows besides can be lost
at any moment.
"""
