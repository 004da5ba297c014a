"""The work item, its run, and the contracts that the other packages share."""
