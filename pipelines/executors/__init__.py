"""Where a plan runs: one file each. An executor never knows what is computed."""
