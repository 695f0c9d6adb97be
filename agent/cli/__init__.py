"""The command line. `main` finds the verb; each verb parses its options, builds what it needs, and prints."""
