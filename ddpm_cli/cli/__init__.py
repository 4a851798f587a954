"""The command line: one file a command, thin over `ddpm_cli.core`."""
