"""The never-in-clear guard, the lease gate and the bridge rules, by the nft program."""
