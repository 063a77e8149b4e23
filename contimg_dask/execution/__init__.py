"""Run steps and groups on a Dask cluster."""
