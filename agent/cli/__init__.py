"""The command line: one file a verb, each of which parses, builds, calls, prints, and nothing else."""
