"""How good a normalizer is: expression kept, identity removed, everything else constant."""
