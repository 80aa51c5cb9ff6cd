"""The command line, `hf-tsrep`: one file a command; what is heavy is imported when a command runs."""
