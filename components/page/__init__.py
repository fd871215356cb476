"""Page: what Gradio draws."""
