"""The parts of the cluster as processes of this machine: the runbook's loop, and chaos."""
