"""The web page, an optional extra: `desk` does the runs and keeps them, `page` shows them and takes new ones."""
