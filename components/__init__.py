"""What the tabs share: checkpoints and their sources, the model manager, figures, interface pieces."""
