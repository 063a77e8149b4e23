"""Convert what the catalogue has queued, on a cluster, for months: nothing is lost, nothing twice.

`dispatcher` is the loop. It claims a group (`claiming`), chooses a node (`placing`), has it
converted there (`connection`) and records what came of it (`outcomes`, `retrying`), while `reading`
brings the groups of submitted jobs into the queue. `recovery` puts right what a predecessor left.
"""
