"""Training that is killed and started again ends with the weights it would have had."""
