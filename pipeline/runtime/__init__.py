"""Where a job runs: environments, processes, this machine, and what a stage took of it."""
