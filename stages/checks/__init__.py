"""What ``normpipe doctor`` looks at, a module for each kind; every check returns findings."""
