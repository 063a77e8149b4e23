"""Write and check Measurement Sets."""
