"""Read and write UVH5 files."""
