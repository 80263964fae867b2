"""What data is: keys, schemas, vocabularies. Imports no other package of normpipe."""
