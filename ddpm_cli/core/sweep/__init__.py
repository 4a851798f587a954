"""The settings of sampling, searched for the best score of a run."""
