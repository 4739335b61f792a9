"""One self-contained HTML page from run folders, without torch and without the network."""
