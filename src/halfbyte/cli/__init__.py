"""The `halfbyte` command, one file per verb."""
