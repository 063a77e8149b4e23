"""From a finished Measurement Set to one that readers find, and what is written about it.

The manifest inside the product (`manifest`), what stands at the target already (`targets`), the
commit itself (`committing`) with owner and permissions (`ownership`), and records of failed groups
(`failed`).
"""
