"""The scores, each a function of features or of their mean and covariance."""
