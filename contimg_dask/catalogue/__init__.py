"""What is known of groups, outside Dask: the only place that speaks SQL.

`opening` opens a catalogue, `records` are its nouns. Each other module is named after what it is
about, and its functions take the catalogue first. A function that writes is one transaction, and
there is one writer at a time, on SQLite and on PostgreSQL alike.
"""
