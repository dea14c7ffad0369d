"""What runs on the login node: the command line, the plan, submission, status. Never torch."""
