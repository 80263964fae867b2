"""What data is: keys, schemas, vocabularies. Imports nothing of ours."""
