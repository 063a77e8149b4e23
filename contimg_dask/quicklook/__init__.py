"""A small picture of each product, made of what the workers hold anyway while they convert it."""
