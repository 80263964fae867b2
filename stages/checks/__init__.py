"""The checks of ``normpipe doctor``, one module for each kind; every check returns findings."""
