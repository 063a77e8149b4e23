"""Where a product is made before it is published.

A tier with room for it (`room`), promised to the attempt under a lock (`reserving`), in a directory
of the attempt's own (`attempts`) that is gone afterwards, whatever happens (`sweeping`).
"""
