"""The catalogue on real databases, every test on SQLite and on PostgreSQL."""
