"""The steps from metrics to a promoted model. Each may be called again and does what is left to do.

A step is a function of `Settings` and of the run's key; it returns a small dict and leaves the rest in the run's
folder, so that steps need not run on one machine.
"""
