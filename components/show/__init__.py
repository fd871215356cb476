"""Show: HTML and figures made of those numbers."""
