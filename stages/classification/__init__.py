"""What ``classify``, ``evaluate``, ``predict``, ``ablate`` and ``compare`` are made of."""
