"""The blocks that the project's own parts are made of: attention, MLPs, norms, rotary, linear + cross-entropy."""
