"""Which channels of a model hang together, what they are worth, and the model without some."""
