"""Server: who may ask for what, who waits, what is counted, logged and kept."""
