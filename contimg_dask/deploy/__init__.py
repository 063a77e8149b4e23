"""The cluster on real nodes: its inventory, what is rendered from it, how it is checked."""
